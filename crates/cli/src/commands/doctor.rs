//! `frontier doctor`: what this machine offers, and what stands in the way.

use anyhow::Result;

use crate::device;
use crate::hub;
use crate::memory::{Machine, pressure};
use crate::output::{human_bytes, print_text};
use crate::settings::{Settings, defs};

/// Show what this machine offers and what stands in the way
#[derive(clap::Args, Debug)]
pub(crate) struct Doctor {}

impl Doctor {
    pub(crate) fn run(&self, settings: &Settings) -> Result<()> {
        let machine = Machine::read();
        let bytes = |bytes: Option<u64>| bytes.map_or_else(|| "not told by the system".to_owned(), human_bytes);
        let (device, budget) = match device::open(settings) {
            Ok(device) => (device.describe(), bytes(device.budget(settings).bytes)),
            Err(error) => (format!("problem: {error:#}"), "no device".to_owned()),
        };
        let store = hub::open_store(settings).and_then(|store| Ok((store.dir().display().to_string(), store.list()?)));
        let store = match store {
            Ok((dir, models)) => format!("{dir}, {} models", models.len()),
            Err(error) => format!("problem: {error:#}"),
        };
        let threads = std::thread::available_parallelism().map(|n| n.to_string());
        let rows = [
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("system", format!("{} on {}", std::env::consts::OS, std::env::consts::ARCH)),
            ("processors", threads.unwrap_or_else(|error| format!("problem: {error}"))),
            ("device", device),
            ("gpus", device::adapters().join("\n            ")),
            ("cpu isa", cpu::Isa::available().map(cpu::Isa::name).collect::<Vec<_>>().join(", ")),
            ("memory", bytes(machine.total_bytes)),
            ("cgroup", machine.cgroup_bytes.map_or_else(|| "no limit".to_owned(), human_bytes)),
            ("budget", budget),
            ("watch", pressure::describe(settings.on(&defs::MEMORY_WATCH))),
            ("models", store),
        ];
        print_text(&rows.iter().map(|(name, value)| format!("{name:11} {value}\n")).collect::<String>())
    }
}
