"""Where agents live: one :class:`~runner.sandbox.spawner.Spawner`, several backends."""
