//! The socket behind the API: loopback TCP or a Unix socket of mode 0600 that only its owner's processes may use.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

use super::endpoint::Endpoint;
use crate::exit::Failure;

/// A connection of either kind.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A listening socket. Dropping it closes it, and removes the file of a Unix socket.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener, SocketAddr),
    #[cfg(unix)]
    Unix(unix::SocketFile),
}

impl Listener {
    /// Listens on `endpoint`; `None` when the API is off.
    pub async fn bind(endpoint: &Endpoint) -> Result<Option<Self>, Failure> {
        endpoint
            .check()
            .map_err(|problem| Failure::new("config", format!("api.listen: {problem}")))?;
        match endpoint {
            Endpoint::Off => Ok(None),
            Endpoint::Tcp(address) => bind_tcp(*address).await.map(Some),
            #[cfg(unix)]
            Endpoint::Unix(path) => unix::SocketFile::bind(path)
                .await
                .map(|socket| Some(Self::Unix(socket))),
            #[cfg(not(unix))]
            Endpoint::Unix(_) => Ok(None),
        }
    }

    /// Where clients reach it: the real port when any was asked for.
    pub fn endpoint(&self) -> Endpoint {
        match self {
            Self::Tcp(_, address) => Endpoint::Tcp(*address),
            #[cfg(unix)]
            Self::Unix(socket) => Endpoint::Unix(socket.path().to_owned()),
        }
    }

    /// Whether whoever connects must still show the token.
    pub fn needs_token(&self) -> bool {
        matches!(self, Self::Tcp(..))
    }

    /// The next connection of this user.
    pub async fn accept(&self) -> std::io::Result<Box<dyn Stream>> {
        match self {
            Self::Tcp(listener, _) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            #[cfg(unix)]
            Self::Unix(socket) => Ok(Box::new(socket.accept().await?)),
        }
    }
}

async fn bind_tcp(address: SocketAddr) -> Result<Listener, Failure> {
    let taken = |error: std::io::Error| {
        let advice =
            "set another [api] listen in node.toml, such as \"127.0.0.1:0\" (any port) or \"off\"";
        Failure::new(
            "network",
            format!("the API cannot listen on {address}: {error}; {advice}"),
        )
    };
    let listener = TcpListener::bind(address).await.map_err(taken)?;
    let address = listener.local_addr().map_err(taken)?;
    Ok(Listener::Tcp(listener, address))
}

#[cfg(unix)]
mod unix {
    use std::fs;
    use std::io;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    use std::path::{Path, PathBuf};

    use tokio::net::{UnixListener, UnixStream};

    use crate::control::auth::make_private;
    use crate::exit::Failure;

    #[derive(Debug)]
    pub struct SocketFile {
        listener: UnixListener,
        path: PathBuf,
        /// The user who runs the daemon, as recorded by the system when the socket was made.
        owner: u32,
    }

    impl SocketFile {
        pub async fn bind(path: &Path) -> Result<Self, Failure> {
            make_way(path).await?;
            let failed = |error: io::Error| {
                Failure::new(
                    "network",
                    format!("the API cannot listen on unix:{}: {error}", path.display()),
                )
            };
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir).map_err(failed)?;
            }
            // Under another name until its mode is right, so that nobody meets it half made.
            let mut unfinished = path.as_os_str().to_owned();
            unfinished.push(format!(".{}", std::process::id()));
            let unfinished = PathBuf::from(unfinished);
            let listener = UnixListener::bind(&unfinished).map_err(failed)?;
            let owner = make_private(&unfinished)
                .and_then(|()| fs::rename(&unfinished, path))
                .and_then(|()| fs::metadata(path))
                .map_err(|error| {
                    // The socket is useless now; that its file cannot be removed either changes nothing.
                    let _ = fs::remove_file(&unfinished);
                    failed(error)
                })?
                .uid();
            Ok(Self {
                listener,
                path: path.to_owned(),
                owner,
            })
        }

        pub fn path(&self) -> &Path {
            &self.path
        }

        pub async fn accept(&self) -> io::Result<UnixStream> {
            let (stream, _) = self.listener.accept().await?;
            let user = stream.peer_cred()?.uid();
            if user != self.owner && user != 0 {
                return Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    format!("user {user} is not the owner"),
                ));
            }
            Ok(stream)
        }
    }

    impl Drop for SocketFile {
        fn drop(&mut self) {
            // A file that is left behind is recognised as stale by the next start.
            let _ = fs::remove_file(&self.path);
        }
    }

    /// Removes what an earlier daemon left, but neither a living daemon's socket nor anything that is no socket.
    async fn make_way(path: &Path) -> Result<(), Failure> {
        let Ok(found) = fs::symlink_metadata(path) else {
            return Ok(());
        };
        if !found.file_type().is_socket() {
            return Err(Failure::new(
                "config",
                format!("api.listen: {} exists and is no socket", path.display()),
            ));
        }
        match UnixStream::connect(path).await {
            Ok(_) => Err(Failure::new(
                "locked",
                format!("a daemon is already listening on unix:{}", path.display()),
            )),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)
                .map_err(|error| {
                    Failure::io(
                        format!("cannot remove the stale socket {}", path.display()),
                        &error,
                    )
                }),
            Err(error) => Err(Failure::io(
                format!("cannot use the socket {}", path.display()),
                &error,
            )),
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn a_socket_is_private_and_only_a_stale_one_is_replaced() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("deep").join("api.sock");
        let endpoint = Endpoint::Unix(path.clone());

        let first = Listener::bind(&endpoint).await.expect("free").expect("on");
        let mode = std::fs::metadata(&path)
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let second = Listener::bind(&endpoint).await;
        assert_eq!(
            second
                .map(|_| ())
                .map_err(|failure| failure.code.into_owned()),
            Err("locked".into())
        );
        drop(first);
        assert!(!path.exists(), "the socket outlived its listener");

        drop(std::os::unix::net::UnixListener::bind(&path).expect("a stale socket"));
        drop(
            Listener::bind(&endpoint)
                .await
                .expect("replaces the stale socket"),
        );

        std::fs::write(&path, "precious").expect("written");
        let over_file = Listener::bind(&endpoint).await;
        assert_eq!(
            over_file.map(|_| ()).map_err(|failure| failure.exit_code()),
            Err(2)
        );
        assert_eq!(
            std::fs::read_to_string(&path).ok().as_deref(),
            Some("precious")
        );
    }
}
