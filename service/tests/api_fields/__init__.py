"""What becomes of each field of a request at each engine: seen by rendering it, shown in docs/api-fields.md."""
