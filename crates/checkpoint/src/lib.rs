//! Model files to neutral data: GGUF, safetensors, Hugging Face config. Every byte is hostile.
