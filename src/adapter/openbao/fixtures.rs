//! A server for tests: it speaks HTTP without TLS, and says what it is told to say.

use super::Endpoint;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};

/// Listens, and gives `answer` the first line of each request with the connection that it came by, one after the other.
pub(crate) async fn listening<F, A>(answer: F) -> Endpoint
where
    F: Fn(String, TcpStream) -> A + Send + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    // No client is built without one, whatever it speaks. Where another test installed one, that does.
    drop(rustls::crypto::ring::default_provider().install_default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut asked = [0; 1024];
            let length = connection.read(&mut asked).await.unwrap();
            assert!(length > 0, "it was asked nothing");
            let line = String::from_utf8_lossy(&asked[..length]).lines().next().unwrap_or_default().to_owned();
            answer(line, connection).await;
        }
    });
    Endpoint { pod: "kelp-0".into(), address, tls_name: "kelp-0.test".into(), ca_pem: None }
}

/// A whole answer with this status, `200 OK`, and an empty object.
pub(crate) fn answer(status: &str) -> String {
    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}")
}
