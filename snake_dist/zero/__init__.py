"""Everything that knows DeepSpeed: the engine, configs, whole tensors of sharded parameters, training state."""
