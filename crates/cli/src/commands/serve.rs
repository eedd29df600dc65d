//! `frontier serve [MODEL...]`: the HTTP server.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;

use anyhow::Result;
use clap::builder::NonEmptyStringValueParser;
use server::{ConnectionLimits, Metrics, Models, Overflow, RequestLimits, Server, ServerConfig};

use crate::memory::pressure;
use crate::problems;
use crate::settings::defs::Def;
use crate::settings::{Settings, SettingsError, Source, defs};
use crate::shelf::{self, Shelf};
use crate::stop::StopSignals;

/// Threads for sockets and text; the engine computes on threads of its own.
const IO_THREADS: usize = 2;

/// Serve models over HTTP, compatible with OpenAI's API
#[derive(clap::Args, Debug)]
pub(crate) struct Serve {
    /// Paths or names of models, or a directory of them; the default model when none is given. The first is loaded at
    /// the start, others when they are asked for
    pub(super) models: Vec<String>,
    /// Name under which it is served, where there is one model
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,
}

impl Serve {
    pub(crate) fn run(&self, settings: &Settings) -> Result<()> {
        let config = server_config(settings)?;
        let metrics = Metrics::new();
        let mut shelf = self.shelf(settings)?;
        // Pulling and loading may take long: whether there is somewhere to listen is found out before.
        let address = config.address;
        can_listen(settings, address)?;
        shelf.prepare()?;
        shelf.warn_of_unused_settings();
        let first = shelf.load_first(&metrics)?;
        let models = Models {
            on_demand: shelf.names().filter(|name| **name != first.0.name).cloned().collect(),
            loaded: vec![first],
            pinned: settings.list(&defs::MODEL_PIN),
            idle_ttl: settings.value(&defs::MODEL_IDLE_TTL).map(|_| settings.time(&defs::MODEL_IDLE_TTL)),
            loader: Some(Arc::new(shelf)),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(IO_THREADS)
            // Beside texts: draining, loading, unloading.
            .max_blocking_threads(config.requests.max_text_jobs + 4)
            .enable_all()
            .build()?;
        let outcome = runtime.block_on(async {
            let server = Server::bind(config, models, metrics).await;
            let server = server.map_err(|problem| refused_address(settings, address, problem.cause()))?;
            let is_watched = settings.on(&defs::MEMORY_WATCH);
            tracing::info!("memory watch: {}", pressure::describe(is_watched));
            tracing::info!("listening on http://{}", server.address());
            if is_watched {
                pressure::watch(server.relief())?;
            }
            let abandoned = server.run(stop_signal()?).await;
            if abandoned > 0 {
                tracing::warn!("{abandoned} requests did not finish within MISTRAL_SHUTDOWN_TIMEOUT");
            }
            tracing::info!("stopped");
            Ok(())
        });
        // Texts that are still being tokenized are nobody's any more, and cannot be stopped: the exit does not wait for
        // them.
        runtime.shutdown_background();
        outcome
    }

    /// The name of the only model, whose settings file applies to the server itself.
    pub(super) fn only_name(&self, settings: &Settings) -> Option<String> {
        let found = shelf::only_name(&self.models, settings)?;
        Some(self.name.clone().unwrap_or(found))
    }

    /// What else is wrong with the settings, of what only the machine or the models can tell.
    pub(super) fn problems(&self, settings: &Settings) -> Vec<String> {
        let checked = server_config(settings).and_then(|config| match settings.source(&defs::PORT) {
            // So looks one that could not be read.
            Source::Default => Ok(()),
            _ => can_listen(settings, config.address),
        });
        let mut found = checked.err().map(problems::of_settings).unwrap_or_default();
        let (mut shelf, absent) = Shelf::find(&self.models, settings);
        let renamed = self.name.as_ref().map_or(Ok(()), |name| shelf.rename_only(name));
        found.extend(absent);
        found.extend(renamed.err().map(problems::of_any).unwrap_or_default());
        found.extend(shelf.problems());
        found
    }

    fn shelf(&self, settings: &Settings) -> Result<Shelf> {
        let mut shelf = Shelf::new(&self.models, settings)?;
        if let Some(name) = &self.name {
            shelf.rename_only(name)?;
        }
        Ok(shelf)
    }
}

/// The server's settings; refuses to listen beyond loopback without a key.
fn server_config(settings: &Settings) -> Result<ServerConfig> {
    let host = settings.text(&defs::HOST).unwrap_or("127.0.0.1");
    let port = settings.int(&defs::PORT) as u16;
    let address: SocketAddr = match host.parse::<IpAddr>() {
        Ok(ip) => (ip, port).into(),
        Err(_) => {
            let found = (host, port).to_socket_addrs().map(|mut addresses| addresses.next());
            found.ok().flatten().ok_or_else(|| {
                refused_host(settings, "the name has no address; allowed: an IP address or a name that has one")
            })?
        }
    };
    let api_keys = settings.list(&defs::API_KEYS);
    if !address.ip().is_loopback() && api_keys.is_empty() && !settings.on(&defs::INSECURE) {
        let why =
            "others could use this server; allowed: 127.0.0.1 and ::1, others with MISTRAL_API_KEYS or --insecure";
        return Err(refused_host(settings, why));
    }
    let mut allowed_hosts = settings.list(&defs::ALLOWED_HOSTS);
    allowed_hosts.push(host.to_owned());
    Ok(ServerConfig {
        address,
        api_keys,
        allowed_hosts,
        strict: settings.on(&defs::STRICT),
        shutdown_timeout: settings.time(&defs::SHUTDOWN_TIMEOUT),
        connections: ConnectionLimits {
            max_connections: settings.len(&defs::MAX_CONNECTIONS),
            max_header_bytes: settings.len(&defs::MAX_HEADER_SIZE),
            max_headers: settings.len(&defs::MAX_HEADERS),
            header_timeout: settings.time(&defs::HEADER_TIMEOUT),
            idle_timeout: settings.time(&defs::IDLE_TIMEOUT),
            write_timeout: settings.time(&defs::STREAM_STALL_TIMEOUT),
        },
        requests: RequestLimits {
            max_body_bytes: settings.len(&defs::MAX_BODY_SIZE),
            body_timeout: settings.time(&defs::BODY_TIMEOUT),
            max_json_depth: settings.len(&defs::MAX_JSON_DEPTH),
            max_prompts: settings.len(&defs::MAX_PROMPTS),
            max_messages: settings.len(&defs::MAX_MESSAGES),
            max_documents: settings.len(&defs::MAX_DOCUMENTS),
            max_completion_logprobs: settings.len(&defs::MAX_COMPLETION_LOGPROBS),
            max_top_logprobs: settings.len(&defs::MAX_TOP_LOGPROBS),
            max_stop_strings: settings.len(&defs::MAX_STOP_STRINGS),
            max_stop_bytes: settings.len(&defs::MAX_STOP_LENGTH),
            max_breaker_bytes: settings.len(&defs::MAX_DRY_BREAKER_LENGTH),
            max_tools: settings.len(&defs::MAX_TOOLS),
            max_schema_bytes: settings.len(&defs::MAX_SCHEMA_SIZE),
            max_schema_depth: settings.len(&defs::MAX_SCHEMA_DEPTH),
            context_overflow: match settings.text(&defs::CONTEXT_OVERFLOW) {
                Some("truncate") => Overflow::Truncate,
                _ => Overflow::Reject,
            },
            max_text_jobs: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        },
    })
}

fn refused_host(settings: &Settings, why: &str) -> anyhow::Error {
    refused(settings, &defs::HOST, why)
}

/// Whether there is an address to listen on.
fn can_listen(settings: &Settings, address: SocketAddr) -> Result<()> {
    TcpListener::bind(address).map(drop).map_err(|problem| refused_address(settings, address, &problem))
}

/// Why an address cannot be listened on, as a mistake of the setting that would mend it.
fn refused_address(settings: &Settings, address: SocketAddr, problem: &io::Error) -> anyhow::Error {
    match problem.kind() {
        io::ErrorKind::AddrInUse => {
            let why = format!("another program listens on {address}; allowed: a free port, or 0 to be given one");
            refused(settings, &defs::PORT, &why)
        }
        io::ErrorKind::PermissionDenied => {
            let why = format!("this user may not listen on {address}; allowed: 1024 to 65535, or 0 to be given one");
            refused(settings, &defs::PORT, &why)
        }
        io::ErrorKind::AddrNotAvailable => {
            refused_host(settings, "this machine has no such address; allowed: 127.0.0.1, or another of its own")
        }
        _ => refused_host(
            settings,
            &format!("cannot listen on {address}: {problem}; allowed: an address of this machine"),
        ),
    }
}

fn refused(settings: &Settings, def: &'static Def, why: &str) -> anyhow::Error {
    SettingsError(vec![format!("{}={} ({}): {why}", def.env(), settings.shown(def), settings.source(def))]).into()
}

/// Ready at the first Ctrl-C, SIGTERM or, on Linux, SIGHUP. A second one ends the process at once, but for a second
/// SIGHUP: closing a terminal sends several.
fn stop_signal() -> Result<impl Future<Output = ()>> {
    let mut signals = StopSignals::new()?;
    Ok(async move {
        signals.next().await;
        tokio::spawn(async move { std::process::exit(signals.next().await) });
    })
}
