//! A program that cannot reach anybody: it may answer whoever reaches it, and every connection that it, or a child of its,
//! would open itself is refused by the kernel.
//!
//! A restored OpenBao revokes the leases that have run out since its snapshot was taken, and revoking means: to log in to the
//! databases and clouds of the living cluster, with its credentials, and to take accounts away that may have been renewed there.
//! Network policies would help where something enforces them. This filter works on every node, without any right.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

const FASTOPEN: u64 = libc::MSG_FASTOPEN.unsigned_abs() as u64;

/// Why a program was not started.
#[derive(Debug, thiserror::Error)]
pub enum IsolationError {
    #[error("this processor has no filter: {0}")]
    Unbuildable(#[source] seccompiler::BackendError),
    #[error("the kernel does not take the filter that keeps a restored server off every network")]
    Refused(#[source] seccompiler::Error),
    #[error("the filter is in place and a connection was opened all the same")]
    Open,
    #[error("no program was named")]
    Nothing,
    #[error("could not start {program}")]
    Start { program: String, source: io::Error },
}

/// Gives this process up for `command`, which can open no connection. Comes back only with the reason why it could not.
pub fn exec(command: &[OsString]) -> IsolationError {
    let Some((program, arguments)) = command.split_first() else { return IsolationError::Nothing };
    if let Err(error) = close() {
        return error;
    }
    let source = Command::new(program).args(arguments).exec();
    IsolationError::Start { program: program.to_string_lossy().into_owned(), source }
}

/// Puts the filter over this thread and all that it starts, for good, and tries it.
fn close() -> Result<(), IsolationError> {
    let program = filter().map_err(IsolationError::Unbuildable)?;
    seccompiler::apply_filter(&program).map_err(IsolationError::Refused)?;
    // Port 9 is nobody's. Without the filter the answer is another one.
    match std::net::TcpStream::connect(("127.0.0.1", 9)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        _ => Err(IsolationError::Open),
    }
}

/// No `connect` at all, and no socket for datagrams, which needs none.
fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    // The kind stands in the lower four bits, flags above it.
    let socket = |family: i32, kind: i32| {
        SeccompRule::new(vec![is(0, SeccompCmpOp::Eq, family)?, is(1, SeccompCmpOp::MaskedEq(0xf), kind)?])
    };
    let sockets = vec![
        socket(libc::AF_INET, libc::SOCK_DGRAM)?,
        socket(libc::AF_INET6, libc::SOCK_DGRAM)?,
        socket(libc::AF_INET, libc::SOCK_RAW)?,
        socket(libc::AF_INET6, libc::SOCK_RAW)?,
    ];
    // Sending can open a connection too, where it is told to.
    let opens = |flags: u8| SeccompRule::new(vec![is(flags, SeccompCmpOp::MaskedEq(FASTOPEN), libc::MSG_FASTOPEN)?]);
    // An empty list of rules means: always. What comes through a ring is no call of these names.
    let rules = BTreeMap::from([
        (libc::SYS_connect, Vec::new()),
        (libc::SYS_socket, sockets),
        (libc::SYS_sendto, vec![opens(3)?]),
        (libc::SYS_sendmsg, vec![opens(2)?]),
        (libc::SYS_sendmmsg, vec![opens(3)?]),
        (libc::SYS_io_uring_setup, Vec::new()),
    ]);
    let refused = SeccompAction::Errno(libc::EACCES.unsigned_abs());
    let target = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, SeccompAction::Allow, refused, target)?.try_into()
}

fn is(argument: u8, how: SeccompCmpOp, value: i32) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, u64::from(value.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_can_be_made_for_this_processor() {
        assert!(filter().unwrap().len() > 10);
    }

    #[test]
    fn nothing_is_started_where_nothing_is_named() {
        assert!(matches!(exec(&[]), IsolationError::Nothing));
    }

    /// In a thread of its own: the filter stays with it.
    #[test]
    fn whoever_is_isolated_can_answer_and_not_call() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let isolated = std::thread::spawn(move || {
            close().unwrap();
            let called = std::net::TcpStream::connect(address).map_err(|error| error.kind());
            let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").map_err(|error| error.kind());
            let own = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            (called.err(), datagrams.err(), own.local_addr().unwrap().port() > 0)
        });
        let denied = Some(io::ErrorKind::PermissionDenied);
        assert_eq!(isolated.join().unwrap(), (denied, denied, true));
        assert!(std::net::TcpStream::connect(address).is_ok(), "nobody else is held back");
    }
}
