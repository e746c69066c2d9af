"""Bearer tokens: who is calling, and how far they may go."""
