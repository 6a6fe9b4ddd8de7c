"""One session of a run, from its start or a checkpoint to its end, a stop or a failure: what makes it last."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from snake_dist.checkpoint.checkpoints import read_tensors
from snake_dist.checkpoint.run_dir import METRICS, keep_metrics, read_status, write_status
from snake_dist.checkpoint.writer import CheckpointWriter
from snake_dist.cluster.preemption import StopFlag
from snake_dist.cluster.watchdog import Watchdog
from snake_dist.cluster.world import agree, gather
from snake_dist.errors import InputError, RankError
from snake_dist.training.metrics import Metrics, MetricsLog
from snake_dist.zero.config import zero_stage
from snake_dist.zero.state import ADALORA, MASTER, gather_state, load_masters, load_state

if TYPE_CHECKING:
    import torch

    from snake_dist.run.preparation import Run
    from snake_dist.training.rank_allocation import RankAllocation

Value = TypeVar("Value")


class Stopped(Exception):
    """The run was asked to stop, and has saved; raised on all ranks together."""


class Session:
    """Saves, stops and goes on. Made on all ranks together; every method is called by all of them."""

    def __init__(self, run: Run, stop: StopFlag | None = None) -> None:
        self.run, self.world = run, run.world
        self.stop = StopFlag() if stop is None else stop
        self.metrics: MetricsLog | None = None
        """Rank 0's log, once it is open."""
        numbers = run.checkpoint.numbers if run.checkpoint else {}
        self.first_step = self.step = numbers.get("step", 0)
        self.wandb_run_id: str | None = numbers.get("wandb_run_id")
        self._seconds_before: float = numbers.get("seconds", 0.0)
        self._started = time.perf_counter()
        self._saved_step = self._committed_step = self.first_step if run.checkpoint else None
        self._config = run.config.checkpoint
        self._tensors: dict[str, torch.Tensor] = {}
        self._watchdog: Watchdog | None = None
        self._writer = CheckpointWriter(
            run.output_dir, self._config.keep_checkpoints, self._config.best_by, self._committed
        )
        self.history = self._kept_history()
        """What was logged up to the checkpoint, without the steps."""
        if self.world.is_main:
            self._write_status("training")

    @property
    def seconds(self) -> float:
        """Training time so far, of earlier sessions up to their last checkpoint too."""
        return self._seconds_before + time.perf_counter() - self._started

    def load_model(self, model: Any) -> None:
        """Before the engine is made: give `model` the checkpoint's weights, if the run goes on from one."""
        if self.run.checkpoint is not None:
            self._tensors = self._broadcast_tensors()
            load_masters(model, self._tensors)

    def load_engine(self, engine: Any, allocation: RankAllocation | None) -> None:
        """After the engine was made: its optimizer, and AdaLoRA's `allocation`, go on from the checkpoint; from now on
        ranks are watched."""
        if self.run.checkpoint is not None:
            load_state(engine, self._tensors, self.run.checkpoint.numbers["optimizer"])
            if allocation is not None:
                allocation.load_state({name: t for name, t in self._tensors.items() if name.startswith(ADALORA)})
            self._tensors = {}
        self._engine, self._allocation = engine, allocation
        self._watchdog = watchdog = Watchdog(self.world, self._config.rank_timeout_s, self._stuck)
        engine.module.register_forward_pre_hook(lambda *_: watchdog.beat())

    def after_step(self, step: int, held_out: Metrics) -> bool:
        """Save if it is time to; True, on all ranks alike, if the run was asked to stop and has saved."""
        self.beat()
        self.step = step
        stop, has_failed = self._on_any_rank(bool(self.stop), self._writer.has_failed)
        if has_failed:
            self._wait()
        is_end = stop or step == self.run.num_steps
        if is_end or (self._config.save_every and step % self._config.save_every == 0):
            self._save(step, held_out, is_end)
        return stop

    def stopped(self) -> bool:
        """Whether training ended before its last step."""
        return self.step < self.run.num_steps

    def gather(self, value: Value) -> list[Value]:
        """The value of every rank, as `world.gather`; raises Stopped if any rank was asked to stop."""
        outcomes = gather((value, bool(self.stop)), self.world)
        if any(stop for _, stop in outcomes):
            raise Stopped
        return [one for one, _ in outcomes]

    def end_training(self) -> None:
        """Stop watching the ranks: what follows takes its time."""
        if self._watchdog is not None:
            self._watchdog.close()

    def end(self, state: str, reason: str | None = None) -> None:
        """Say on disk how the session ended: "finished" or "stopped"."""
        if self.world.is_main:
            self._write_status(state, reason)

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Whatever ends the session before its time is written down, and a lost rank is named, in one line."""
        try:
            yield
        except Stopped:
            raise
        except BaseException as problem:
            error = self._explained(problem)
            if self.world.is_main:
                with contextlib.suppress(OSError):  # a full disk is often the very problem
                    self._write_status("failed", f"{type(error).__name__}: {error}"[:500])
            if error is problem:
                raise
            raise error from problem
        finally:
            self.end_training()

    def _explained(self, problem: BaseException) -> BaseException:
        if self._watchdog is None or self.world.size == 1:
            return problem
        if isinstance(problem, RankError):
            with contextlib.suppress(RuntimeError):  # the store may have gone with its rank
                self._watchdog.post_failure(str(problem))
        elif isinstance(problem, RuntimeError) and _is_lost_connection(problem):
            reason = self._watchdog.explain()
            return RankError(f"step {self.step + 1}: {reason}" if reason else "")
        return problem

    def _save(self, step: int, held_out: Metrics, is_end: bool) -> None:
        if step == self._saved_step:
            return
        started = time.perf_counter()
        self._wait()
        tensors, optimizer = gather_state(self._engine)
        if self._allocation is not None:
            tensors |= self._allocation.state()
        if not all(bool(t.isfinite().all()) for name, t in tensors.items() if name.startswith(f"{MASTER}/")):
            raise InputError(f"step {step}: the adapter is no longer finite, and was not saved: lower --learning-rate")
        if self.world.is_main:
            numbers = {
                "fingerprint": self.run.fingerprint,
                "optimizer": optimizer,
                "held_out_loss": held_out.get("eval/loss"),
                "play_apples": held_out.get("eval/play/apples/mean"),
                "seconds": self.seconds,
                "wandb_run_id": self.wandb_run_id,
                "world_size": self.world.size,
                "zero_stage": zero_stage(self.run.ds_config),
                "config": self.run.config.flat(),
            }
            if self.metrics is not None:
                self.metrics.sync()
            self._writer.start(step, tensors, numbers)
        self._saved_step = step
        if is_end:
            self._wait()
        if self.metrics is not None:
            size = sum(tensor.nbytes for tensor in tensors.values())
            self.metrics.log(step, {"checkpoint/stall_s": time.perf_counter() - started, "checkpoint/bytes": size})

    def _wait(self) -> None:
        """Until rank 0's last commit is durable; what it failed with is raised on all ranks."""
        agree(self.world, partial(self._writer.wait, self.beat))

    def beat(self) -> None:
        """Tell the other ranks that this one gets on."""
        if self._watchdog is not None:
            self._watchdog.beat()

    def _on_any_rank(self, *flags: bool) -> list[bool]:
        import torch

        table = torch.tensor(flags, dtype=torch.int32, device=self._engine.device)
        torch.distributed.all_reduce(table, torch.distributed.ReduceOp.MAX)
        return [bool(flag) for flag in table.tolist()]

    def _committed(self, step: int) -> None:
        self._committed_step = step
        self._write_status("training")

    def _stuck(self, reason: str) -> None:
        if self.world.is_main:
            self._write_status("failed", reason)

    def _write_status(self, state: str, reason: str | None = None) -> None:
        run = self.run
        previous = read_status(run.output_dir) or {}
        saved = self._committed_step
        write_status(
            run.output_dir,
            state,
            step=self.step,
            num_steps=run.num_steps,
            checkpoint=None if saved is None else f"checkpoints/step-{saved:08d}",
            restarts=previous.get("restarts_without_progress", 0),
            started_at=self.first_step,
            reason=reason,
        )

    def _kept_history(self) -> list[Metrics]:
        run = self.run

        def cut() -> list[dict[str, Any]]:
            source = run.output_dir
            if run.checkpoint is not None and not run.checkpoint.path.is_relative_to(run.output_dir):
                source = run.checkpoint.path.parent.parent
            return keep_metrics(source / METRICS, run.output_dir / METRICS, self.first_step if run.checkpoint else -1)

        kept = agree(self.world, cut)
        return [{name: value for name, value in entry.items() if name != "step"} for entry in kept]

    def _broadcast_tensors(self) -> dict[str, torch.Tensor]:
        """Rank 0 reads, all get: other nodes need not see the directory."""
        import torch

        from snake_dist.model.base import device_for

        checkpoint = self.run.checkpoint
        assert checkpoint is not None
        mine: dict[str, torch.Tensor] = {}

        def read() -> dict[str, Any]:
            mine.update(read_tensors(checkpoint))
            return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in mine.items()}

        device = device_for(self.world.local_rank)
        received = {}
        for name, (shape, dtype) in agree(self.world, read).items():
            tensor = mine[name].to(device) if mine else torch.empty(shape, dtype=dtype, device=device)
            torch.distributed.broadcast(tensor, src=0)
            received[name] = tensor.cpu()
        return received


def _is_lost_connection(problem: RuntimeError) -> bool:
    import torch

    if isinstance(problem, (torch.distributed.DistBackendError, torch.distributed.DistNetworkError)):
        return True
    text = str(problem)
    return any(sign in text for sign in ("gloo", "Connection closed by peer", "Connection reset", "NCCL"))
