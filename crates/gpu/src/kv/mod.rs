//! KV pages on the device.
//!
//! Each layer has one buffer of keys and one of values, `[page][kv head][token of the page][head dimension]`, in one of the
//! forms of `format.rs`.

mod format;

use tensor::{BackendError, Dims, Format, KvSpec, PAGE_TOKENS};

use crate::device::Gpu;
use crate::memory::{Buffer, Slice};

pub(crate) use format::KvFormat;

/// The pages of all layers.
pub(crate) struct Kv {
    pub(crate) layers: Vec<LayerKv>,
    pub(crate) groups: usize,
}

/// The pages of one layer.
pub(crate) struct LayerKv {
    pub(crate) group: usize,
    pub(crate) key: KvFormat,
    pub(crate) value: KvFormat,
    pub(crate) k: Buffer,
    pub(crate) v: Buffer,
    /// Entries in each buffer.
    pub(crate) values: u64,
    page_values: u64,
}

impl Kv {
    /// # Errors
    /// No kernel for the formats or head sizes, more than a kernel can see, or no memory.
    pub(crate) fn allocate(gpu: &Gpu, dims: &Dims, spec: &KvSpec) -> Result<Kv, BackendError> {
        let unsupported =
            |what: String, limit: String| BackendError::Unsupported { device: gpu.summary().name.clone(), what, limit };
        let format = |format: Format| {
            KvFormat::new(format).ok_or_else(|| {
                let limit = "f32, f16, bf16, q8_0, q4_0; set MISTRAL_KV_CACHE_DTYPE to one of these".to_owned();
                unsupported(format!("a KV cache of {}", format.name()), limit)
            })
        };
        let (key, value) = (format(spec.key_format)?, format(spec.value_format)?);
        let mut layers: Vec<Option<LayerKv>> = dims.layers.iter().map(|_| None).collect();
        for (group, members) in spec.groups.iter().enumerate() {
            for &layer in &members.layers {
                let sizes = dims.layers[layer];
                if !sizes.head_dim.is_multiple_of(32) && (key.is_quantized() || value.is_quantized()) {
                    let what = format!(
                        "a KV cache of {},{} with head size {}",
                        spec.key_format.name(),
                        spec.value_format.name(),
                        sizes.head_dim
                    );
                    return Err(unsupported(what, "multiples of 32; set MISTRAL_KV_CACHE_DTYPE=f16".into()));
                }
                let page_values = (sizes.kv_heads * PAGE_TOKENS * sizes.head_dim) as u64;
                let values = page_values * members.pages as u64;
                let (k_bytes, v_bytes) = (key.bytes(values), value.bytes(values));
                let (wanted, most) = (k_bytes.max(v_bytes), gpu.max_binding_bytes());
                if wanted > most {
                    return Err(unsupported(
                        format!("{} KV pages, {wanted} bytes in layer {layer}", members.pages),
                        format!("a kernel can see {most} bytes of a buffer; lower MISTRAL_MAX_TOTAL_TOKENS"),
                    ));
                }
                let k = gpu.heap.allocate("K pages", k_bytes)?;
                let v = gpu.heap.allocate("V pages", v_bytes)?;
                if gpu.options.sabotage.dirty_pages {
                    for buffer in [&k, &v] {
                        // NaN as a half, as a float, and as the scale of a block.
                        gpu.uploads.write(gpu, buffer, 0, &vec![0xff; buffer.size() as usize])?;
                    }
                }
                layers[layer] = Some(LayerKv { group, key, value, k, v, values, page_values });
            }
        }
        let layers = layers.into_iter().map(|layer| layer.expect("every layer is in a group")).collect();
        Ok(Kv { layers, groups: spec.groups.len() })
    }

    /// Copies page `from` to page `to` in every layer of a group. A copy within one buffer is not allowed: it goes by way
    /// of `scratch`.
    pub(crate) fn copy_page(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        scratch: &Slice,
        group: usize,
        from: u32,
        to: u32,
    ) {
        for layer in self.layers.iter().filter(|layer| layer.group == group) {
            for (buffer, format) in [(&layer.k, layer.key), (&layer.v, layer.value)] {
                for (base, page_bytes) in format.parts(layer.values, layer.page_values) {
                    let (from, to) = (base + u64::from(from) * page_bytes, base + u64::from(to) * page_bytes);
                    let mut done = 0;
                    while done < page_bytes {
                        let part = (page_bytes - done).min(scratch.size());
                        encoder.copy_buffer_to_buffer(&buffer.raw, from + done, &scratch.raw, 0, part);
                        encoder.copy_buffer_to_buffer(&scratch.raw, 0, &buffer.raw, to + done, part);
                        done += part;
                    }
                }
            }
        }
    }
}
