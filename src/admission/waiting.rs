//! Pods that wait for the pull secret of one namespace share a flight: a burst of them costs one task and one write.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::{
    domain::{
        decision::MOST_LOGIN_SERVERS,
        image::LoginServer,
        registry::{Namespace, RegistryName},
    },
    ensure::EnsureError,
};

/// The login servers that pods wait for, each with the rule whose credential it takes.
pub(super) type Wanted = BTreeMap<LoginServer, RegistryName>;

/// What came of a flight, once it has ended.
type Outcome = Option<Result<(), EnsureError>>;

/// The flights under way. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Waiting {
    flights: Arc<Mutex<HashMap<String, Flights>>>,
}

/// Of one namespace: the flight that is under way, and the one that follows for what it does not bring.
#[derive(Debug)]
struct Flights {
    now: Flight,
    next: Option<Flight>,
}

#[derive(Debug)]
struct Flight {
    namespace: Arc<Namespace>,
    wanted: Wanted,
    outcome: watch::Sender<Outcome>,
}

/// A pod's place in a flight.
#[derive(Debug)]
pub(super) struct Place {
    wanted: Wanted,
    outcome: watch::Receiver<Outcome>,
}

/// The flights of a namespace, to be carried out by one task.
#[derive(Debug)]
pub(super) struct Pilot {
    flights: Arc<Mutex<HashMap<String, Flights>>>,
    namespace: String,
    is_done: bool,
}

impl Waiting {
    /// A place in the flight that is under way if it brings what is wanted, else in the next. Whoever gets a pilot has to
    /// let it fly.
    ///
    /// # Errors
    ///
    /// Gives back what is wanted when the next flight has to bring more already than a pull secret can hold.
    pub(super) fn join(&self, namespace: &Arc<Namespace>, wanted: Wanted) -> Result<(Place, Option<Pilot>), Wanted> {
        let mut flights = lock(&self.flights);
        let Some(known) = flights.get_mut(&namespace.name) else {
            let (flight, place) = Flight::new(namespace.clone(), wanted);
            flights.insert(namespace.name.clone(), Flights { now: flight, next: None });
            let pilot = Pilot { flights: self.flights.clone(), namespace: namespace.name.clone(), is_done: false };
            return Ok((place, Some(pilot)));
        };
        let is_brought =
            wanted.iter().all(|(login_server, registry)| known.now.wanted.get(login_server) == Some(registry));
        let place = match (&mut known.next, is_brought) {
            (_, true) => Place { outcome: known.now.outcome.subscribe(), wanted },
            (Some(next), false) if next.wanted.len() >= MOST_LOGIN_SERVERS => return Err(wanted),
            (Some(next), false) => {
                next.namespace = namespace.clone();
                next.wanted.extend(wanted.clone());
                Place { outcome: next.outcome.subscribe(), wanted }
            }
            (next @ None, false) => {
                let (flight, place) = Flight::new(namespace.clone(), wanted);
                *next = Some(flight);
                place
            }
        };
        Ok((place, None))
    }
}

impl Flight {
    fn new(namespace: Arc<Namespace>, wanted: Wanted) -> (Self, Place) {
        let (outcome, receiver) = watch::channel(None);
        let place = Place { wanted: wanted.clone(), outcome: receiver };
        (Self { namespace, wanted, outcome }, place)
    }
}

impl Place {
    /// Waits for the end of the flight: what keeps the pod from pulling, if anything does. `None`: the flight was lost.
    pub(super) async fn arrival(mut self) -> Option<Result<(), EnsureError>> {
        let ended = self.outcome.wait_for(Option::is_some).await.ok()?;
        Some(match ended.as_ref()? {
            Ok(()) => Ok(()),
            Err(error) => error.concerning(self.wanted.keys()).map_or(Ok(()), Err),
        })
    }
}

impl Pilot {
    /// Carries out the flight, and the next, until nobody waits any more.
    pub(super) async fn fly(mut self, ensure: impl AsyncFn(&Namespace, &Wanted) -> Result<(), EnsureError>) {
        while let Some((namespace, wanted)) = self.now() {
            let ensured = ensure(&namespace, &wanted).await;
            self.land(ensured);
        }
    }

    fn now(&self) -> Option<(Arc<Namespace>, Wanted)> {
        let flights = lock(&self.flights);
        let now = &flights.get(&self.namespace)?.now;
        Some((now.namespace.clone(), now.wanted.clone()))
    }

    fn land(&mut self, ensured: Result<(), EnsureError>) {
        let mut flights = lock(&self.flights);
        let Some(known) = flights.get_mut(&self.namespace) else { return };
        known.now.outcome.send_replace(Some(ensured));
        if let Some(next) = known.next.take() {
            known.now = next;
        } else {
            flights.remove(&self.namespace);
            self.is_done = true;
        }
    }
}

impl Drop for Pilot {
    /// After a fault of the program the next pod starts anew.
    fn drop(&mut self) {
        if !self.is_done {
            lock(&self.flights).remove(&self.namespace);
        }
    }
}

fn lock(flights: &Mutex<HashMap<String, Flights>>) -> MutexGuard<'_, HashMap<String, Flights>> {
    flights.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
impl Waiting {
    /// How many login servers the next flights have to bring.
    pub(super) fn waited_for(&self) -> usize {
        lock(&self.flights).values().filter_map(|flights| flights.next.as_ref()).map(|next| next.wanted.len()).sum()
    }
}
