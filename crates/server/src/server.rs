//! A server from bind to exit.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;

use crate::app::{App, router};
use crate::config::ServerConfig;
use crate::edge::{ListenError, Listener};
use crate::metrics::Metrics;
use crate::model::ServedModel;

/// A bound server, ready to run.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    app: Arc<App>,
}

impl Server {
    /// Binds the socket. `models` has at least one; the first is the default.
    ///
    /// # Panics
    /// If `models` is empty.
    pub async fn bind(
        config: ServerConfig,
        models: Vec<ServedModel>,
        mut metrics: Metrics,
    ) -> Result<Self, ListenError> {
        assert!(!models.is_empty(), "a server has at least one model");
        let models: Vec<Arc<ServedModel>> = models.into_iter().map(Arc::new).collect();
        metrics.collect(&models);
        let listener = Listener::bind(config.address, config.connections.clone()).await?;
        Ok(Self { listener, app: Arc::new(App::new(config, models, Arc::new(metrics))) })
    }

    /// Where it listens, with the port that was given out where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.listener.address().unwrap_or(self.app.config.address)
    }

    /// Answers requests until `stop` is ready. Then readiness fails, new generation requests are refused, and what
    /// runs may finish within the shutdown timeout. Returns how many requests did not.
    pub async fn run(self, stop: impl Future<Output = ()>) -> usize {
        let Self { listener, app } = self;
        let (stopper, stopped) = watch::channel(false);
        let serving = tokio::spawn(listener.serve(router(Arc::clone(&app)), stopped));
        stop.await;
        app.drain();
        tracing::info!("stopping: requests that run may finish within {:?}", app.config.shutdown_timeout);
        let engines = app.models.iter().map(|model| {
            let (model, limit) = (Arc::clone(model), app.config.shutdown_timeout);
            tokio::task::spawn_blocking(move || model.engine.drain(limit).abandoned)
        });
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
