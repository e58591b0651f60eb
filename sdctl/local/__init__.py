"""The local target: the emulator, the runtimes and the agents as supervised processes of this machine."""
