//! What test programs with a `main` of their own have in common: they start one world for all cases, and end it however the
//! cases end.

use std::{future::Future, pin::Pin, process::ExitCode, sync::Arc};

use libtest_mimic::{Arguments, Trial};
use tokio::runtime::{Handle, Runtime};

use crate::world::{Error, World};

pub type Case = fn(Arc<World>) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// Cases with their names.
macro_rules! cases {
    ($($module:ident::$case:ident),* $(,)?) => {
        vec![$((
            concat!(stringify!($module), "::", stringify!($case)),
            (|world| Box::pin($module::$case(world))) as $crate::program::Case,
        )),*]
    };
}

/// How many cases run at the same time.
#[derive(Clone, Copy, Debug)]
pub enum Threads {
    OneByOne,
    /// Unless the command line says otherwise.
    SideBySide(usize),
}

/// Starts the world, unless the cases are only listed, and runs what `trials` makes of it. `shown` is what to show of the
/// world when a case has failed.
pub fn run<Start: Future<Output = Result<World, Error>>>(
    threads: Threads,
    start: impl FnOnce() -> Start,
    trials: impl FnOnce(&Handle, Option<&Arc<World>>) -> Vec<Trial>,
    shown: impl FnOnce(&World) -> String,
) -> ExitCode {
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("nobody installed one before");
    let mut arguments = Arguments::from_args();
    match threads {
        Threads::OneByOne => arguments.test_threads = Some(1),
        Threads::SideBySide(count) => drop(arguments.test_threads.get_or_insert(count)),
    }
    let runtime = Runtime::new().expect("a runtime");
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(runtime.handle(), None)).exit_code();
    }
    let world = match runtime.block_on(start()) {
        Ok(world) => Arc::new(world),
        Err(error) => {
            eprintln!("what the cases need could not be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let conclusion = libtest_mimic::run(&arguments, trials(runtime.handle(), Some(&world)));
    if conclusion.has_failed() {
        eprintln!("--- logs of the replicas ---\n{}", shown(&world));
    }
    // The control plane ends with the world, and with this process if a case that failed still holds it.
    runtime.block_on(async { drop(world) });
    conclusion.exit_code()
}
