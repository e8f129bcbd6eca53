//! Who leads, asked of every server itself; and the identity with which it is asked for more.
//!
//! A standby serves a snapshot too, of what it knows by then, and seals itself on a restore: only a server that says of
//! itself that it leads, right before, is sent anything.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use tokio::time::Instant;

use super::error::MoverError;
use super::protocol::Peer;
use crate::adapter::objectstore::error::detail;
use crate::adapter::openbao::{Client, Endpoint, HealthState, Token};

/// Between two rounds of asking, while nobody leads.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How long a leader is waited for: far longer than an election.
const PATIENCE: Duration = Duration::from_mins(3);
const MAX_SECRET_FILE: u64 = 64 * 1024;

/// The servers and how to speak to them.
#[derive(Clone, Debug)]
pub struct Servers {
    pub peers: Vec<Peer>,
    pub ca_pem: Option<String>,
    pub identity: Identity,
}

/// How the mover shows who it is.
#[derive(Clone, Debug)]
pub enum Identity {
    /// A login.
    Jwt(Jwt),
    /// An OpenBao token in a file.
    Token { file: PathBuf },
    /// An OpenBao token where it is known, else a login: the token may be one of the data that is about to be restored.
    TokenOrJwt { token: PathBuf, jwt: Jwt },
}

/// What a login is made with.
#[derive(Clone, Debug)]
pub struct Jwt {
    /// A projected token, read again at each login because it rotates.
    pub file: PathBuf,
    pub mount: String,
    pub role: String,
}

/// A server that said it leads.
#[derive(Debug)]
pub(super) struct Leader {
    pub peer: Peer,
    pub endpoint: Endpoint,
    pub client: Client,
    pub cluster_id: String,
}

impl Servers {
    pub(super) fn endpoint(&self, peer: &Peer) -> Result<Endpoint, MoverError> {
        let address: SocketAddr = peer.address.parse().map_err(|_| {
            MoverError::Config(format!("the address \"{}\" of {} is not ip:port", peer.address, peer.pod))
        })?;
        let plain = peer.tls_name.is_empty();
        if !plain && self.ca_pem.is_none() {
            return Err(MoverError::Config("a TLS name without a CA file: nothing could be trusted".to_owned()));
        }
        Ok(Endpoint {
            pod: peer.pod.clone(),
            address,
            tls_name: if plain { address.ip().to_string() } else { peer.tls_name.clone() },
            ca_pem: self.ca_pem.clone().filter(|_| !plain),
        })
    }

    /// Asks until exactly one server leads and says so twice (health and its own view).
    ///
    /// Not for as long as there is: a server that was started anew has another address, which only the next Job knows,
    /// and whoever waits holds the cluster's lock.
    pub(super) async fn leader(&self, until: Instant) -> Result<Leader, MoverError> {
        let until = until.min(Instant::now() + PATIENCE);
        let mut why = "no server answered in time".to_owned();
        loop {
            let Ok(round) = tokio::time::timeout_at(until, self.ask_all()).await else {
                return Err(MoverError::NoLeader(why));
            };
            match round? {
                Ok(leader) => return Ok(leader),
                Err(seen) => why = seen,
            }
            if Instant::now() + ASK_AGAIN >= until {
                return Err(MoverError::NoLeader(why));
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// One round: the leader, or why there is none.
    async fn ask_all(&self) -> Result<Result<Leader, String>, MoverError> {
        if self.peers.is_empty() {
            return Err(MoverError::Config("no servers were named".to_owned()));
        }
        let endpoints: Vec<_> = self.peers.iter().map(|peer| self.endpoint(peer)).collect::<Result<_, _>>()?;
        let answers = futures::future::join_all(endpoints.iter().map(ask)).await;
        let mut leaders = Vec::new();
        let mut others = Vec::new();
        for ((peer, endpoint), answer) in self.peers.iter().zip(endpoints).zip(answers) {
            match answer {
                Ok(Some((client, cluster_id))) => {
                    leaders.push(Leader { peer: peer.clone(), endpoint, client, cluster_id });
                }
                Ok(None) => others.push(format!("{} follows", peer.pod)),
                Err(error) => others.push(detail(&error)),
            }
        }
        Ok(match leaders.len() {
            1 => leaders.pop().ok_or_else(String::new),
            0 => Err(others.join("; ")),
            n => Err(format!("{n} servers say that they lead")),
        })
    }

    /// Logs in at one server.
    pub(super) async fn login(&self, client: &Client) -> Result<Token, MoverError> {
        match &self.identity {
            Identity::Token { file } => token_in(file),
            Identity::Jwt(jwt) => jwt.login(client).await,
            Identity::TokenOrJwt { token, jwt } => {
                let token = token_in(token)?;
                match client.lookup_self(&token).await {
                    Ok(()) => Ok(token),
                    Err(error) if error.is_denied() => {
                        tracing::info!("the leader does not know the named token: logging in by JWT");
                        jwt.login(client).await
                    }
                    Err(error) => Err(MoverError::Leader(error)),
                }
            }
        }
    }

    /// Gives back a token that a login made.
    pub(super) async fn logout(&self, client: &Client, token: &Token) {
        if self.identity.has_minted(token) {
            let _ = client.revoke_self(token).await;
        }
    }
}

impl Identity {
    /// Whether a login made this token. One from a file belongs to somebody else.
    fn has_minted(&self, token: &Token) -> bool {
        match self {
            Self::Jwt(_) => true,
            Self::Token { .. } => false,
            // Where the file cannot be read any more it might be either one: it runs out by itself.
            Self::TokenOrJwt { token: file, .. } => token_in(file).is_ok_and(|named| !named.is(token)),
        }
    }
}

impl Jwt {
    async fn login(&self, client: &Client) -> Result<Token, MoverError> {
        let jwt = SecretString::from(secret_file("the service account token", &self.file)?);
        client.login_jwt(&self.mount, &self.role, &jwt).await.map_err(|error| match error.status() {
            // Every refused login is a 400; a server that is going away answers otherwise or not at all.
            Some(400 | 403 | 404) => MoverError::Login(error),
            _ => MoverError::Leader(error),
        })
    }
}

fn token_in(file: &Path) -> Result<Token, MoverError> {
    Ok(Token::new(secret_file("the OpenBao token", file)?))
}

/// The client and the cluster's id when this server leads.
async fn ask(endpoint: &Endpoint) -> crate::adapter::openbao::Result<Option<(Client, String)>> {
    let client = Client::for_transfer(endpoint)?;
    let health = client.health().await?;
    if health.state != HealthState::Active || !client.leader().await?.is_self {
        return Ok(None);
    }
    Ok(Some((client, health.cluster_id.unwrap_or_default())))
}

/// Whether this very server still leads.
pub(super) async fn still_leads(endpoint: &Endpoint) -> Result<(), MoverError> {
    match ask(endpoint).await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(MoverError::LeaderChanged { pod: endpoint.pod.clone() }),
        Err(error) => Err(MoverError::Leader(error)),
    }
}

fn secret_file(what: &'static str, path: &Path) -> Result<String, MoverError> {
    let failed = |source| MoverError::ReadFile { what, path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > MAX_SECRET_FILE {
        return Err(MoverError::Config(format!("{what} in {} is too long to be one", path.display())));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let text = text.trim();
    if text.is_empty() {
        Err(MoverError::Config(format!("{what} in {} is empty", path.display())))
    } else {
        Ok(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_somebody_keeps_is_never_given_back_and_one_that_a_login_made_always_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "s.named\n").unwrap();
        let jwt = || Jwt { file: "j".into(), mount: "jwt".into(), role: "r".into() };
        let (named, minted) = (Token::new("s.named"), Token::new("s.minted"));
        assert!(Identity::Jwt(jwt()).has_minted(&minted));
        assert!(!Identity::Token { file: file.clone() }.has_minted(&named));
        let either = Identity::TokenOrJwt { token: file.clone(), jwt: jwt() };
        assert!(either.has_minted(&minted) && !either.has_minted(&named));
        std::fs::remove_file(&file).unwrap();
        assert!(!either.has_minted(&minted) && !either.has_minted(&named), "it cannot be told any more");
    }
}
