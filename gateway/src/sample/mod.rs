//! The sample application: a small bookshop, one service of it per process.
//!
//! `productpage` calls `reviews` and `details`, and `reviews` calls `ratings`, as in Istio's Bookinfo. Which
//! service calls which is told by `--calls`, so one program is all of them. Every answer names the cluster,
//! the process and the caller's identity, so that one request to `productpage` draws the whole way it took.
//!
//! It knows nothing of Isthmus: it speaks plain HTTP/1.1 to a forward proxy, as any application could.

mod call;
mod caller;
mod echo;
mod page;
mod server;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use isthmus_model::name::{ClusterName, Label};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use call::Call;

pub(crate) const EXAMPLES: &str = "\
Examples:
  # ratings, which calls nobody
  isthmus sample-app --service ratings --cluster us-east --listen 127.0.11.22:9080
  # reviews, which calls ratings through its sidecar
  isthmus sample-app --service reviews --cluster us-east --listen 127.0.11.21:9080 \\
    --proxy http://127.0.11.21:15001 --calls ratings=http://ratings.shop.svc.clusterset.local:9080/
  # and what it answers
  curl http://127.0.11.21:9080/";

/// What a service of the bookshop is and where.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The service's name in its answers: productpage, reviews, ratings, details
    #[arg(long)]
    pub service: Label,
    /// The version in its answers
    #[arg(long, value_name = "VERSION", default_value = "v1")]
    pub version: Label,
    /// The cluster in its answers
    #[arg(long)]
    pub cluster: ClusterName,
    /// Where it serves HTTP
    #[arg(long, value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Where it serves lines over plain TCP: it greets, then repeats what it hears
    #[arg(long, value_name = "ADDRESS")]
    pub tcp_echo: Option<SocketAddr>,
    /// The forward proxy that its own calls go through, as http://HOST:PORT
    #[arg(long, value_name = "URL", value_parser = call::parse_proxy)]
    pub proxy: Option<String>,
    /// A service that it calls for each answer, as NAME=URL; may be repeated
    #[arg(long = "calls", value_name = "NAME=URL")]
    pub calls: Vec<Call>,
}

/// The application, bound.
#[derive(Debug)]
pub struct SampleApp {
    args: Args,
    http: TcpListener,
    echo: Option<TcpListener>,
}

impl SampleApp {
    /// Binds the listeners.
    ///
    /// # Errors
    /// The address that cannot be listened on.
    pub async fn bind(args: Args) -> anyhow::Result<Self> {
        let http = bind(args.listen, "--listen").await?;
        let echo = match args.tcp_echo {
            Some(address) => Some(bind(address, "--tcp-echo").await?),
            None => None,
        };
        Ok(Self { args, http, echo })
    }

    /// Where it serves HTTP.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.http.local_addr()
    }

    /// Where it serves lines over plain TCP, if it does.
    #[must_use]
    pub fn echo_addr(&self) -> Option<SocketAddr> {
        self.echo.as_ref().and_then(|echo| echo.local_addr().ok())
    }

    /// Serves until told to stop, and then until open requests are answered.
    pub async fn serve(self, shutdown: CancellationToken) {
        let Self { args, http, echo } = self;
        let greeting = format!("hello from {}/{}\n", args.cluster, args.service);
        let lines = async {
            if let Some(listener) = echo {
                echo::serve(listener, greeting, shutdown.clone()).await;
            }
        };
        tokio::join!(server::serve(http, Arc::new(args), shutdown.clone()), lines);
    }
}

async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} ({flag})"))
}

/// Runs the application until SIGTERM or SIGINT.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (service, cluster) = (args.service.clone(), args.cluster.clone());
    let app = SampleApp::bind(args).await?;
    tracing::info!(%service, %cluster, address = %app.local_addr()?, "serving");
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let mut serving = std::pin::pin!(app.serve(shutdown));
    tokio::select! {
        () = serving.as_mut() => return Ok(()),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.cancel();
    serving.await;
    Ok(())
}

#[cfg(test)]
mod tests;
