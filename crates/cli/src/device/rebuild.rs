//! A network on a GPU that comes back after the device was lost: opened again, weights loaded again.

use anyhow::Result;
use engine::{DecoderRunner, RebuildingRunner, Runner};
use gpu::GpuBackend;
use model::{Decoder, DecoderConfig, ModelError, Perplexity, PerplexityOptions};
use tensor::{BackendError, Format};

use super::gpu::GpuDevice;
use crate::network::Network;

/// A network loaded onto a GPU, and how it is loaded once more.
pub(crate) struct GpuNetwork<F> {
    decoder: Decoder<GpuBackend>,
    device: GpuDevice,
    reload: F,
}

impl<F: FnMut(&GpuDevice) -> Result<Decoder<GpuBackend>> + Send + 'static> GpuNetwork<F> {
    /// `reload` loads onto the device, opened again, what `decoder` is.
    pub(crate) fn new(decoder: Decoder<GpuBackend>, device: GpuDevice, reload: F) -> Self {
        GpuNetwork { decoder, device, reload }
    }
}

impl<F: FnMut(&GpuDevice) -> Result<Decoder<GpuBackend>> + Send + 'static> Network for GpuNetwork<F> {
    fn config(&self) -> &DecoderConfig {
        self.decoder.config()
    }

    fn max_context(&self) -> usize {
        self.decoder.max_context()
    }

    fn describe_backend(&self) -> String {
        self.decoder.describe_backend()
    }

    fn logits(
        &mut self,
        tokens: &[u32],
        kv_format: Format,
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), BackendError> {
        Network::logits(&mut self.decoder, tokens, kv_format, each)
    }

    fn perplexity(
        &mut self,
        tokens: &[u32],
        options: &PerplexityOptions,
        each: &mut dyn FnMut(&Perplexity),
    ) -> Result<Perplexity, ModelError> {
        model::perplexity(&mut self.decoder, tokens, options, each)
    }

    fn into_runner(
        self: Box<Self>,
        key_format: Format,
        value_format: Format,
        pages: &[usize],
    ) -> Result<Box<dyn Runner>, BackendError> {
        let GpuNetwork { decoder, mut device, mut reload } = *self;
        let pages = pages.to_vec();
        let runner = DecoderRunner::new(decoder, key_format, value_format, &pages)?;
        let build = move || {
            device = device.reopen()?;
            let decoder = reload(&device)
                .map_err(|error| BackendError::Device { device: device.name(), message: format!("{error:#}") })?;
            DecoderRunner::new(decoder, key_format, value_format, &pages)
        };
        Ok(Box::new(RebuildingRunner::new(runner, build)))
    }
}
