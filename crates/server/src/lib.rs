//! The wire: OpenAI-compatible HTTP, health, metrics.
