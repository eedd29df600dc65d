//! Text to tokens and back: vocabularies, streaming decode, chat templates.
