//! Whether a server gives no answer because of the certificate that it serves, and whether the time is all that is wrong with it.
//!
//! Such a server is not cut off: the operator would believe it, had it read the certificate that lies in its Secret by now. OpenBao
//! reads it when it starts.

use rustls::CertificateError;
use std::{error::Error, io};

/// A certificate that is good but for the time. The verifier's own words count the seconds, and a status would move with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Outdated {
    #[error("the certificate that it serves has expired")]
    Expired,
    #[error("the certificate that it serves is not valid yet: is a clock wrong?")]
    Early,
}

/// Looks for that flaw among the causes of a failed request.
pub(super) fn outdated(error: &(dyn Error + 'static)) -> Option<Outdated> {
    match flaw(error)? {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Some(Outdated::Expired),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Some(Outdated::Early),
        _ => None,
    }
}

/// Whether a request failed because the certificate was not believed: for its time, its names or its authority.
pub(super) fn is_refused(error: &(dyn Error + 'static)) -> bool {
    flaw(error).is_some()
}

fn flaw<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a CertificateError> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(flaw)) = error.downcast_ref() {
            return Some(flaw);
        }
        // What such an error wraps is not among its sources.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = wrapped.map(|wrapped| wrapped as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        adapter::openbao::{Client, Endpoint},
        service::cluster::{names, tls},
    };
    use chrono::{TimeDelta, Utc};
    use rustls::{
        ServerConfig, ServerConnection,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    };
    use secrecy::ExposeSecret;
    use std::{net::TcpListener, sync::Arc};

    #[derive(Debug, thiserror::Error)]
    #[error("no answer")]
    struct NoAnswer(#[source] io::Error);

    #[test]
    fn an_expired_certificate_is_told_from_one_of_an_unknown_authority_however_deep_it_lies() {
        let judged = |flaw: CertificateError| {
            let tls = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::InvalidCertificate(flaw));
            outdated(&NoAnswer(io::Error::other(tls)))
        };
        assert_eq!(judged(CertificateError::Expired), Some(Outdated::Expired));
        assert_eq!(judged(CertificateError::NotValidYet), Some(Outdated::Early));
        assert_eq!(judged(CertificateError::UnknownIssuer), None);
        assert_eq!(outdated(&NoAnswer(io::Error::other("refused"))), None);
    }

    #[test]
    fn a_certificate_that_is_not_believed_is_told_from_a_connection_that_fails_whatever_is_wrong_with_it() {
        let refused = |error: rustls::Error| is_refused(&NoAnswer(io::Error::other(error)));
        for flaw in [CertificateError::Expired, CertificateError::UnknownIssuer, CertificateError::NotValidForName] {
            assert!(refused(rustls::Error::InvalidCertificate(flaw.clone())), "{flaw:?}");
        }
        assert!(!refused(rustls::Error::HandshakeNotComplete));
        assert!(!is_refused(&NoAnswer(io::Error::other("refused"))));
    }

    /// Shows every caller this certificate, and says nothing.
    fn serve(pair: &tls::KeyedCert) -> std::net::SocketAddr {
        let chain = vec![CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(pair.key.expose_secret().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut connection = ServerConnection::new(config.clone()).unwrap();
                drop(connection.complete_io(&mut stream.unwrap()));
            }
        });
        address
    }

    #[tokio::test]
    async fn a_server_with_an_expired_certificate_is_known_by_what_the_client_says() {
        // Where another test installed one, that does.
        drop(rustls::crypto::ring::default_provider().install_default());
        let long_ago = Utc::now() - TimeDelta::days(800);
        let authority = tls::new_authority("kelp", "reef", long_ago).unwrap();
        let served = tls::serving_names("kelp", "reef", &[]);
        for (issued, expected) in [(long_ago, Some(Outdated::Expired)), (Utc::now(), None)] {
            let pair = tls::issue(&authority, &served, tls::DEFAULT_ROTATION, issued).unwrap();
            let endpoint = Endpoint {
                pod: "kelp-0".into(),
                address: serve(&pair),
                tls_name: names::tls_name("kelp", "reef", "kelp-0"),
                ca_pem: Some(authority.cert.clone()),
            };
            let error = Client::new(&endpoint).unwrap().health().await.unwrap_err();
            assert_eq!(outdated(&error), expected, "{error:?}");
            assert_eq!(is_refused(&error), expected.is_some(), "{error:?}");
            let another = Endpoint { tls_name: "kelp-3.elsewhere.svc".into(), ..endpoint };
            let error = Client::new(&another).unwrap().health().await.unwrap_err();
            assert!(is_refused(&error), "{error:?}");
        }
    }
}
