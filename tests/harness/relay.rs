//! A way from a test to a pod: a port on this machine whose connections end at an address inside the node's network.

use std::net::SocketAddr;
use std::process::Stdio;

use tokio::io::{copy, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinHandle;

use super::Cluster;

/// Open until dropped.
pub struct Relay {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Relay {
    /// `to` is `address:port` or `name:port` as seen from inside.
    pub async fn open(cluster: &Cluster, to: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let (cluster, to) = (cluster.clone(), format!("TCP:{to}"));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (cluster, to) = (cluster.clone(), to.clone());
                tokio::spawn(async move { carry(&cluster, &to, stream).await });
            }
        });
        Self { address, task }
    }

    /// `127.0.0.1` and the port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(cluster: &Cluster, to: &str, mut stream: TcpStream) {
    let Ok(inside) = cluster.devcluster().inside_network() else { return };
    let mut command = Command::from(inside);
    command.args(["socat", "-t", "30", "STDIO", to]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let Ok(mut child) = command.spawn() else { return };
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else { return };
    // A connection that breaks is the peer's to notice.
    let mut pipe = tokio::io::join(stdout, stdin);
    let _ = copy_bidirectional(&mut stream, &mut pipe).await;
    let _ = copy(&mut stream, &mut tokio::io::sink()).await;
}
