//! Load generator and reports. Speaks HTTP only, so it measures any OpenAI-compatible server.
