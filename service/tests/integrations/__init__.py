"""What other projects send to OpenAI's and Ollama's servers."""
