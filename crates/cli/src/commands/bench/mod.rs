//! `frontier bench`: how fast the computing parts are here (`engine`), what the hardware could do at best (`roof`), and
//! how fast a server answers (`http`).

mod device;
mod engine;
#[cfg(feature = "gpu")]
mod gpu;
mod http;
mod ideal;
mod roof;
mod sequences;

use anyhow::Result;

use crate::settings::Settings;

/// Measure speed
#[derive(clap::Args, Debug)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    Engine(engine::Engine),
    Roof(roof::Roof),
    Http(http::Http),
}

impl Bench {
    /// The model that is measured, whose settings file applies; `Some(None)` for the configured one.
    pub(super) fn model(&self) -> Option<Option<&str>> {
        match &self.what {
            What::Engine(engine) => engine.model(),
            What::Roof(_) | What::Http(_) => None,
        }
    }

    pub(crate) fn run(&self, settings: &Settings) -> Result<()> {
        match &self.what {
            What::Engine(engine) => engine.run(settings),
            What::Roof(roof) => roof.run(settings),
            What::Http(http) => http.run(),
        }
    }
}
