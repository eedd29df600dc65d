//! A server from bind to exit.

use std::net::SocketAddr;
use std::sync::Arc;

use engine::Relief;
use tokio::sync::watch;

use crate::app::{App, router};
use crate::config::ServerConfig;
use crate::edge::{ListenError, Listener};
use crate::fleet::{Fleet, Models};
use crate::metrics::Metrics;

/// A bound server, ready to run.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    app: Arc<App>,
}

impl Server {
    /// Binds the socket. Of `models` there is at least one; the first is the default.
    ///
    /// # Panics
    /// If `models` is empty.
    pub async fn bind(
        config: ServerConfig,
        models: impl Into<Models>,
        mut metrics: Metrics,
    ) -> Result<Self, ListenError> {
        let fleet = Arc::new(Fleet::new(models.into()));
        metrics.collect(&fleet, &config);
        let listener = Listener::bind(config.address, config.connections.clone()).await?;
        Ok(Self { listener, app: Arc::new(App::new(config, fleet, Arc::new(metrics))) })
    }

    /// Where it listens, with the port that was given out where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.listener.address().unwrap_or(self.app.config.address)
    }

    /// A function that takes a measure against memory pressure in every engine.
    pub fn relief(&self) -> impl Fn(Relief) + Send + 'static {
        let fleet = Arc::clone(&self.app.fleet);
        move |relief| fleet.loaded().iter().for_each(|model| model.engine.relieve(relief))
    }

    /// Answers requests until `stop` is ready. Then readiness fails, new generation requests are refused, and what
    /// runs may finish within the shutdown timeout. Returns how many requests did not.
    pub async fn run(self, stop: impl Future<Output = ()>) -> usize {
        let Self { listener, app } = self;
        let (stopper, stopped) = watch::channel(false);
        let serving = tokio::spawn(listener.serve(router(Arc::clone(&app)), stopped));
        let unloading = tokio::spawn(Arc::clone(&app.fleet).unload_idle());
        stop.await;
        unloading.abort();
        let limit = app.config.shutdown_timeout;
        // First, so that whoever sees readiness fail is refused.
        app.fleet.loaded().iter().for_each(|model| model.engine.begin_drain(limit));
        app.drain();
        tracing::info!("stopping: requests that run may finish within {limit:?}");
        let engines = app
            .fleet
            .loaded()
            .into_iter()
            .map(|model| tokio::task::spawn_blocking(move || model.engine.drain(limit).abandoned));
        let engines: Vec<_> = engines.collect();
        let mut abandoned = 0;
        for engine in engines {
            abandoned += engine.await.unwrap_or(0);
        }
        stopper.send_replace(true);
        if serving.await.is_err() {
            tracing::error!("the accept loop panicked");
        }
        abandoned
    }
}
