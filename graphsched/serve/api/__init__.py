"""The server's interfaces over HTTP: OpenAI's, llama.cpp's own, and what monitors need."""
