//! The way from one replica to the API server, which a case can break.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use control_plane::ControlPlane;
use installation::RELEASE;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::world::Error;

/// Forwards connections to the API server. They end when it is dropped.
pub struct Line {
    address: SocketAddr,
    state: watch::Sender<State>,
    _connections: JoinSet<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Whole,
    /// Packets vanish. A connection from before, or from now, never says a word again, nor does it end.
    Silent,
    /// Connections end, and new ones too.
    Broken,
}

impl Line {
    pub async fn start(control_plane: &ControlPlane) -> Result<Self, Error> {
        let server: SocketAddr = control_plane.url().trim_start_matches("https://").parse()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let state = watch::Sender::new(State::Whole);
        let states = state.subscribe();
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut forwarded = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                forwarded.spawn(forward(client, server, states.clone()));
                while forwarded.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, state, _connections: connections })
    }

    pub fn fall_silent(&self) {
        self.state.send_replace(State::Silent);
    }

    pub fn cut(&self) {
        self.state.send_replace(State::Broken);
    }

    /// New connections work again; those that fell silent stay so.
    pub fn mend(&self) {
        self.state.send_replace(State::Whole);
    }

    /// What a replica needs in its environment to go this way.
    pub async fn environment(&self, control_plane: &ControlPlane) -> Result<Vec<(String, String)>, Error> {
        let direct = control_plane.service_account_kubeconfig(RELEASE, RELEASE).await?;
        let text = std::fs::read_to_string(&direct)?;
        let url = control_plane.url();
        if !text.contains(url) {
            return Err(format!("{} does not name {url}", direct.display()).into());
        }
        let path: PathBuf = control_plane.directory().join(format!("line-{}.kubeconfig", self.address.port()));
        std::fs::write(&path, text.replace(url, &format!("https://{}", self.address)))?;
        Ok(vec![("KUBECONFIG".to_owned(), path.display().to_string())])
    }
}

async fn forward(mut client: TcpStream, server: SocketAddr, mut states: watch::Receiver<State>) {
    let begun_in = *states.borrow_and_update();
    if begun_in == State::Whole
        && let Ok(mut server) = TcpStream::connect(server).await
    {
        tokio::select! {
            _ = copy_bidirectional(&mut client, &mut server) => return,
            changed = states.wait_for(|state| *state != State::Whole) => drop(changed),
        }
        silence(states).await;
        // Both ends are kept open until here.
        drop(server);
    } else if begun_in == State::Silent {
        silence(states).await;
    }
}

/// Does nothing, until the line is cut.
async fn silence(mut states: watch::Receiver<State>) {
    // Without a sender the program ends.
    drop(states.wait_for(|state| *state == State::Broken).await);
}
