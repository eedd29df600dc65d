//! `frontier gpu-selftest`: every kernel of the GPU against the reference.

use anyhow::{Result, bail};
use gpu::selftest::{KernelReport, SelfTest, selftest};

use crate::device::{self, Device};
use crate::output::print_text;
use crate::settings::Settings;
use crate::terminal::CountBar;

/// Cases of `--quick`: every kind of kernel, a few formats.
const QUICK: [&str; 9] = [
    "weights/q4_k/",
    "weights/q6_k/",
    "weights/q8_0/",
    "feature/everything",
    "attention/64x9",
    "kv/q8_0,q8_0/64",
    "network/q4_k",
    "top_k/",
    "copy_page/f16",
];

/// Run every GPU kernel against the reference on small data
#[derive(clap::Args, Debug)]
pub(crate) struct GpuSelftest {
    /// Only cases whose name contains this, e.g. q4_k or attention
    only: Option<String>,
    /// A few cases of each kind: seconds instead of minutes
    #[arg(long)]
    quick: bool,
}

impl GpuSelftest {
    pub(crate) fn run(&self, settings: &Settings) -> Result<()> {
        let device = device::open(settings)?;
        device.announce();
        let Device::Gpu(device) = device else {
            bail!("there is no GPU to test; `frontier doctor` lists the adapters, MISTRAL_DEVICE names one");
        };
        let only: Vec<&str> = match (&self.only, self.quick) {
            (Some(only), _) => vec![only],
            (None, true) => QUICK.to_vec(),
            (None, false) => Vec::new(),
        };
        let bar = CountBar::new("cases", 0);
        let result = selftest(device.gpu(), &only, &mut |_, done, all| bar.set(done as u64, all as u64));
        bar.finish();
        print_text(&table(&result))?;
        let fallbacks = device.gpu().fallbacks();
        print_text(&format!(
            "{} cases passed, {} failed, {} unsupported, {fallbacks} kernels replaced by simpler ones\n",
            result.passed,
            result.failures.len(),
            result.unsupported.len()
        ))?;
        if result.passed == 0 && result.failures.is_empty() {
            bail!("no case ran");
        }
        if !result.failures.is_empty() || fallbacks > 0 {
            bail!("{} cases failed, {fallbacks} kernels were replaced", result.failures.len());
        }
        Ok(())
    }
}

/// A line a kernel, then a line a case that failed or cannot be done.
fn table(result: &SelfTest) -> String {
    let width = result.kernels.keys().map(String::len).max().unwrap_or(0);
    let kernel = |(name, report): (&String, &KernelReport)| {
        let verdict = if report.failed.is_empty() { "ok" } else { "FAILED" };
        format!("{name:width$}  {:4} cases  {verdict}\n", report.cases)
    };
    let failed = |(name, why): &(String, String)| format!("FAILED {name}: {why}\n");
    let unsupported = |(name, why): &(String, String)| format!("unsupported {name}: {why}\n");
    let kernels = result.kernels.iter().map(kernel);
    kernels.chain(result.failures.iter().map(failed)).chain(result.unsupported.iter().map(unsupported)).collect()
}
