//! Packed weights times quantized rows, one file a format.
