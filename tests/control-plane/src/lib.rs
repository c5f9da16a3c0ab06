//! A real Kubernetes control plane on loopback, without containers: etcd, kube-apiserver and, when
//! asked, kube-controller-manager, for tests, the demo and benches.
//!
//! ```no_run
//! # async fn example() -> Result<(), control_plane::ControlPlaneError> {
//! let control_plane = control_plane::ControlPlane::builder().controller_manager(true).start().await?;
//! let version = control_plane.client().apiserver_version().await;
//! # Ok(()) }
//! ```
//!
//! There are no nodes. [`LocalPod`] plays the kubelet for one replica of a Deployment, as a local process, and
//! [`ServiceForwarder`] plays kube-proxy for one Service: both are driven by hand, so that a test can kill, cut and
//! delay as it likes.
//!
//! Where things are:
//! - [`control_plane`](ControlPlane): what runs, with which flags, and in which order.
//! - `programs`: where the binaries come from.
//! - `guardian`: why nothing is left behind, however the process ends.
//! - `loopback`: which addresses and ports an instance may use.
//!
//! Linux only: it relies on all of 127.0.0.0/8 being local.

mod admin_credentials;
mod background_program;
mod control_plane;
mod daemon;
mod environment;
mod guardian;
mod helm;
mod kubeconfig;
mod local_pod;
mod loopback;
mod programs;
mod progress;
mod prometheus;
mod random;
mod registry;
mod service_account_token;
mod service_forwarder;
mod version;

pub use background_program::BackgroundProgram;
pub use control_plane::{ControlPlane, ControlPlaneBuilder, ControlPlaneError};
pub use helm::{Helm, helm_program};
pub use local_pod::{LocalPod, LocalPodError, LocalPodOptions};
pub use programs::ProgramError;
pub use prometheus::prometheus_program;
pub use registry::{crane_program, registry_program};
pub use service_forwarder::ServiceForwarder;
pub use version::KubernetesVersion;
