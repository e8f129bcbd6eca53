//! A way to a server that carries so many bytes a second and no more.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

pub struct Slow {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Slow {
    /// To a port on loopback, per connection and direction.
    pub async fn to(port: u16, bytes_per_second: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            // With the listener its connections end too.
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                connections.spawn(async move {
                    let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                    let (near_in, near_out) = near.into_split();
                    let (far_in, far_out) = far.into_split();
                    tokio::join!(carry(near_in, far_out, bytes_per_second), carry(far_in, near_out, bytes_per_second));
                });
            }
        });
        Self { address, task }
    }

    /// Ends every connection at once, with whatever is on its way: what happens when the far side's node dies, and not
    /// only its process, whose last megabytes the kernel still delivers.
    pub fn cut(&self) {
        self.task.abort();
    }
}

async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, bytes_per_second: usize) {
    let mut buffer = vec![0; (bytes_per_second / 50).max(1024)];
    while let Ok(n) = from.read(&mut buffer).await {
        if n == 0 || to.write_all(&buffer[..n]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1).mul_f64(n as f64 / bytes_per_second as f64)).await;
    }
    let _ = to.shutdown().await;
}
