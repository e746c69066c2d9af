"""Who is calling, and how far the credential reaches."""
