//! What goes wrong, and what was requested.

use std::{collections::VecDeque, time::Duration};

use axum::{
    http::{HeaderName, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};

/// Something that a service does instead of its work.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answers this.
    Answer {
        /// The status.
        status: u16,
        /// Headers, `content-type` among them when it matters.
        headers: Vec<(&'static str, String)>,
        /// The body.
        body: String,
    },
    /// Never answers.
    Hang,
    /// Does its work, later.
    Delay(Duration),
}

impl Fault {
    /// An answer in JSON.
    pub fn json(status: u16, body: impl Into<String>) -> Self {
        Self::Answer { status, headers: vec![("content-type", "application/json".to_owned())], body: body.into() }
    }

    /// A web page, as a proxy answers.
    pub fn html(status: u16) -> Self {
        let body = "<!DOCTYPE html><html><body>Access denied by policy</body></html>".to_owned();
        Self::Answer { status, headers: vec![("content-type", "text/html; charset=utf-8".to_owned())], body }
    }

    /// Too many requests.
    pub fn throttled(retry_after: &str) -> Self {
        let headers = vec![("retry-after", retry_after.to_owned())];
        Self::Answer { status: 429, headers, body: String::new() }
    }

    /// A redirect.
    pub fn redirect(location: &str) -> Self {
        Self::Answer { status: 307, headers: vec![("location", location.to_owned())], body: String::new() }
    }
}

/// A request that arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Path and query.
    pub path: String,
    /// The fields of its form.
    pub form: Vec<(String, String)>,
    /// Its `authorization` header.
    pub authorization: Option<String>,
}

impl Seen {
    /// A field of the form.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.form.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

/// Faults that were asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    next: VecDeque<Fault>,
    always: Option<Fault>,
}

impl Faults {
    pub(crate) fn push(&mut self, fault: Fault) {
        self.next.push_back(fault);
    }

    pub(crate) fn set(&mut self, fault: Option<Fault>) {
        self.always = fault;
    }

    pub(crate) fn take(&mut self) -> Option<Fault> {
        self.next.pop_front().or_else(|| self.always.clone())
    }
}

/// Lets a fault happen; `None`: go on with the work.
pub(crate) async fn happen(fault: Option<Fault>) -> Option<Response> {
    match fault? {
        Fault::Answer { status, headers, body } => {
            let mut response = (StatusCode::from_u16(status).unwrap_or_default(), body).into_response();
            for (name, value) in headers {
                if let Ok(value) = HeaderValue::from_str(&value) {
                    response.headers_mut().insert(HeaderName::from_static(name), value);
                }
            }
            Some(response)
        }
        Fault::Hang => std::future::pending().await,
        Fault::Delay(delay) => {
            tokio::time::sleep(delay).await;
            None
        }
    }
}
