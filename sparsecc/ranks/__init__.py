"""Work that the processes of a `torchrun` job divide: who they are, what they tell each other, and who does what."""
