"""What authors subclass and receive: hooks, Plugin, Task, Step, Run. Imports: config, distributed, the ground."""
