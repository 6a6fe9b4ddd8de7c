"""Base models and adapters: find, load, wrap. Imports no other room."""
