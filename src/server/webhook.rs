//! `POST /mutate`: reads a review and answers it, whatever happens on the way.
//!
//! One service rather than a router under a stack of layers: each of them would box a future and a body for every review,
//! which together cost more than the decision does.

use std::{panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Instant};

use axum::{
    body::{Bytes, HttpBody},
    http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header},
};
use futures_util::FutureExt as _;
use http_body_util::{BodyExt as _, Full};

use super::{
    BODY_LIMIT, BODY_TIMEOUT,
    body_memory::{BodyMemory, FREE_BYTES, Room},
};
use crate::{
    admission::{Admission, CredentialSource, NamespaceSource, PullSecretStore},
    lifecycle::Lifecycle,
};

/// Answers the requests of the API server. Cheap to clone.
#[derive(Debug)]
pub struct Webhook<C, S, N>(Arc<Parts<C, S, N>>);

#[derive(Debug)]
struct Parts<C, S, N> {
    admission: Arc<Admission<C, S, N>>,
    lifecycle: Lifecycle,
    memory: BodyMemory,
}

impl<C: CredentialSource, S: PullSecretStore, N: NamespaceSource> Webhook<C, S, N> {
    /// A webhook that answers by `admission`, and closes connections once the drain of `lifecycle` has begun.
    pub fn new(admission: Arc<Admission<C, S, N>>, lifecycle: Lifecycle) -> Self {
        Self(Arc::new(Parts { admission, lifecycle, memory: BodyMemory::default() }))
    }

    /// Answers one request: a review that is sent to `/mutate`, and nothing else. A panic is answered too.
    pub async fn answer<B: HttpBody<Data = Bytes>>(&self, request: Request<B>) -> Response<Full<Bytes>> {
        let answered = AssertUnwindSafe(self.0.route(request)).catch_unwind().await;
        let mut response = answered.unwrap_or_else(|_| {
            tracing::error!("answering a request panicked; see the message before this one");
            text(StatusCode::INTERNAL_SERVER_ERROR, "internal error\n")
        });
        // Clients shall take their next request elsewhere.
        if self.0.lifecycle.draining().is_cancelled() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl<C, S, N> Clone for Webhook<C, S, N> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<C: CredentialSource, S: PullSecretStore, N: NamespaceSource> Parts<C, S, N> {
    async fn route<B: HttpBody<Data = Bytes>>(&self, request: Request<B>) -> Response<Full<Bytes>> {
        if request.uri().path() != "/mutate" {
            return text(StatusCode::NOT_FOUND, "");
        }
        if request.method() != Method::POST {
            return with(text(StatusCode::METHOD_NOT_ALLOWED, ""), header::ALLOW, "POST");
        }
        let announced = announced(request.headers());
        match tokio::time::timeout(BODY_TIMEOUT, self.read(request.into_body(), announced)).await {
            Ok(Ok((body, _room))) => self.review(&body).await,
            Ok(Err(BodyError::TooLarge)) => text(StatusCode::PAYLOAD_TOO_LARGE, "a review has 8 MiB at most\n"),
            Ok(Err(BodyError::Broken)) => text(StatusCode::BAD_REQUEST, "the request body broke off\n"),
            Ok(Err(BodyError::NoRoom)) => {
                let refusal = text(StatusCode::SERVICE_UNAVAILABLE, "too many large requests at once\n");
                with(refusal, header::RETRY_AFTER, "1")
            }
            Err(_) => text(StatusCode::REQUEST_TIMEOUT, "the request body did not arrive in time\n"),
        }
    }

    /// The whole body, and its room if it needed any. One that comes in one piece is not copied, any other is put together
    /// in one allocation, or in two if it is longer than what is free.
    async fn read<B: HttpBody<Data = Bytes>>(
        &self,
        body: B,
        announced: Option<usize>,
    ) -> Result<(Bytes, Option<Room<'_>>), BodyError> {
        let mut body = pin!(body);
        let mut pieces = Vec::new();
        let mut room: Option<Room<'_>> = None;
        loop {
            let frame = match &room {
                None => body.frame().await,
                Some(room) => tokio::select! {
                    biased;
                    () = room.wanted() => return Err(BodyError::NoRoom),
                    frame = body.frame() => frame,
                },
            };
            let Some(frame) = frame else { break };
            let Ok(piece) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
            let arrived = pieces.len() + piece.len();
            if arrived > BODY_LIMIT {
                return Err(BodyError::TooLarge);
            }
            // Without an announcement it may become as large as is read at all; one beyond that is refused when it is read.
            let announced = announced.filter(|announced| *announced >= arrived).map(|bytes| bytes.min(BODY_LIMIT));
            if room.is_none() && arrived > FREE_BYTES {
                let more = self.memory.room_for(announced.unwrap_or(BODY_LIMIT)).await;
                room = Some(more.ok_or(BodyError::NoRoom)?);
            }
            if let Some(room) = &room {
                room.arrived(arrived);
            }
            if pieces.is_empty() && body.is_end_stream() {
                return Ok((piece, room.inspect(Room::complete)));
            }
            if pieces.capacity() < arrived
                && let Some(announced) = announced
            {
                let most = if room.is_some() { announced } else { announced.min(FREE_BYTES) };
                pieces.reserve_exact(most - pieces.len());
            }
            pieces.extend_from_slice(&piece);
        }
        Ok((pieces.into(), room.inspect(Room::complete)))
    }

    async fn review(&self, body: &[u8]) -> Response<Full<Bytes>> {
        let started = Instant::now();
        let (outcome, response) = match self.admission.answer(body).await {
            Ok(answer) => {
                let response = Response::new(Full::from(answer.body));
                (answer.outcome, with(response, header::CONTENT_TYPE, "application/json"))
            }
            Err(error) => ("malformed", text(StatusCode::BAD_REQUEST, format!("{error}\n"))),
        };
        self.admission.metrics.admission_reviewed(outcome, started.elapsed());
        response
    }
}

/// The length of the body as the request says.
fn announced(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Why there is no body.
enum BodyError {
    TooLarge,
    Broken,
    NoRoom,
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    with(response, header::CONTENT_TYPE, "text/plain; charset=utf-8")
}

fn with(mut response: Response<Full<Bytes>>, name: header::HeaderName, value: &'static str) -> Response<Full<Bytes>> {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
    response
}
