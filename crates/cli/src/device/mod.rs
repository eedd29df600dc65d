//! Choosing what models run on, and saying so in the log: the CPU here, GPU adapters in `gpu.rs`.

#[cfg(feature = "gpu")]
mod gpu;
#[cfg(not(feature = "gpu"))]
#[path = "no_gpu.rs"]
mod gpu;
#[cfg(feature = "gpu")]
mod rebuild;

use std::sync::Arc;

use anyhow::Result;
use cpu::attention::Softmax;
use cpu::{CpuBackend, Isa, Pool, PoolConfig};
use tensor::Backend;

use crate::memory::{Budget, Machine};
use crate::settings::{Settings, SettingsError, defs};

#[cfg(feature = "gpu")]
pub(crate) use gpu::GpuDevice;
pub(crate) use gpu::adapters;
#[cfg(feature = "gpu")]
pub(crate) use rebuild::GpuNetwork;

/// An opened device.
pub(crate) enum Device {
    Cpu(Box<CpuBackend>),
    #[cfg(feature = "gpu")]
    Gpu(GpuDevice),
}

/// Opens the device that the settings ask for.
///
/// # Errors
/// A named device that is absent; `auto` takes the CPU where there is no GPU.
pub(crate) fn open(settings: &Settings) -> Result<Device> {
    let wanted = settings.text(&defs::DEVICE).unwrap_or("auto");
    if wanted != "cpu"
        && let Some(device) = gpu::open(wanted, settings)?
    {
        return Ok(device);
    }
    Ok(Device::Cpu(Box::new(open_cpu(settings)?)))
}

/// Whether models run on a GPU, by the settings and by what there is.
pub(crate) fn is_gpu(settings: &Settings) -> bool {
    match settings.text(&defs::DEVICE) {
        Some("cpu") => false,
        Some("auto") | None => gpu::has_hardware(),
        Some(_) => true,
    }
}

/// What models may take on the device that the settings ask for.
///
/// # Errors
/// As [`open`].
pub(crate) fn budget(settings: &Settings) -> Result<Budget> {
    if is_gpu(settings) {
        return Ok(open(settings)?.budget(settings));
    }
    instruction_set(settings)?;
    Ok(Budget::new(&Machine::read(), settings))
}

impl Device {
    /// Tells the log what models run on.
    pub(crate) fn announce(&self) {
        match self {
            Device::Cpu(backend) => tracing::info!("{}", backend.describe()),
            #[cfg(feature = "gpu")]
            Device::Gpu(device) => device.announce(),
        }
    }

    /// The device, in one line for people.
    pub(crate) fn describe(&self) -> String {
        match self {
            Device::Cpu(backend) => backend.describe(),
            #[cfg(feature = "gpu")]
            Device::Gpu(device) => device.describe(),
        }
    }

    /// What may be used of its memory.
    pub(crate) fn budget(&self, settings: &Settings) -> Budget {
        match self {
            Device::Cpu(_) => Budget::new(&Machine::read(), settings),
            #[cfg(feature = "gpu")]
            Device::Gpu(device) => device.budget(settings),
        }
    }
}

/// The CPU, whatever MISTRAL_DEVICE says.
pub(crate) fn open_cpu(settings: &Settings) -> Result<CpuBackend> {
    let threads = Some(settings.len(&defs::NUM_THREADS)).filter(|threads| *threads > 0);
    let pool = Pool::shared(&PoolConfig { threads, ..PoolConfig::default() })?;
    let softmax = match settings.text(&defs::USE_FLASH_ATTENTION) {
        Some("off") => Softmax::Plain,
        _ => Softmax::Tiled,
    };
    let kept_bytes = if settings.on(&defs::ENABLE_MEMORY_POOLING) { settings.len(&defs::MEMORY_POOL_SIZE) } else { 0 };
    let backend = CpuBackend::with_isa(Arc::new(pool), instruction_set(settings)?);
    Ok(backend.with_softmax(softmax).with_pool_bytes(kept_bytes).with_packed(checkpoint::release))
}

/// The instruction set whose kernels run.
fn instruction_set(settings: &Settings) -> Result<Isa, SettingsError> {
    let Some(name) = settings.text(&defs::CPU_ISA).filter(|name| *name != "auto") else { return Ok(Isa::detect()) };
    let known = Isa::from_name(name).filter(|isa| isa.is_available());
    known.ok_or_else(|| {
        let available: Vec<&str> = Isa::available().map(Isa::name).collect();
        let source = settings.source(&defs::CPU_ISA);
        let allowed = available.join(", ");
        SettingsError(vec![format!("MISTRAL_CPU_ISA={name} ({source}): not on this machine; allowed: auto, {allowed}")])
    })
}

#[cfg(test)]
mod tests {
    use model::{LoadOptions, Quant, Session, Shape, Wanted};
    use tensor::Format;

    use super::*;
    use crate::load::{self, OpenModel};
    use crate::settings::test_settings;

    /// Bytes of scratch memory behind a step of many rows, and behind one of a single row that follows it.
    fn scratch_bytes(env: &[(&str, &str)]) -> [usize; 2] {
        let settings = test_settings(env);
        let shape = Shape::from_name("narrow").unwrap();
        let checkpoint = shape.checkpoint(Quant::from_name("q8_0").unwrap()).unwrap();
        let open = OpenModel { name: shape.name.to_owned(), checkpoint };
        let sizes = LoadOptions { max_rows: 128, max_logit_rows: 1, max_seqs: 1, max_context: None };
        let backend = open_cpu(&settings).unwrap();
        let mut decoder = load::in_sizes(open, backend, &settings, &sizes).unwrap().decoder;
        [128, 1].map(|rows| {
            let mut session = Session::new(&mut decoder, Format::F16, rows).unwrap();
            session.extend(&vec![1; rows], Wanted::Last, &mut |_, _| {}).unwrap();
            decoder.backend().scratch_bytes()
        })
    }

    #[test]
    fn scratch_memory_is_kept_as_the_pool_allows() {
        let pool = |size| ("MISTRAL_MEMORY_POOL_SIZE", size);
        let pooling = |on| ("MISTRAL_ENABLE_MEMORY_POOLING", on);
        for (env, is_kept) in [
            (&[][..], true),
            (&[pool("1GiB")], true),
            (&[pool("0")], false),
            (&[pooling("false")], false),
            (&[pool("1GiB"), pooling("false")], false),
        ] {
            let [many, one] = scratch_bytes(env);
            assert!(many > 0 && (one >= many) == is_kept, "{env:?}: {many} bytes, then {one}");
        }
    }
}
