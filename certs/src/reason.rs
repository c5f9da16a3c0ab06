//! Errors as one line for the log.

use std::error::Error;

/// The error and its sources, each once.
pub(crate) fn with_sources(error: &(dyn Error + 'static)) -> String {
    let mut line = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        if !line.is_empty() {
            line.push_str(": ");
        }
        if let Some(kube::Error::Api(status)) = error.downcast_ref::<kube::Error>() {
            // kube prints the status twice, once as a debug dump, and names it as its own source.
            line.push_str(&status.message);
            return line;
        }
        line.push_str(&error.to_string());
        next = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot write the Secret")]
    struct Outer(#[source] kube::Error);

    #[test]
    fn an_api_error_is_shown_once() {
        let status = kube::core::Status::failure("no such user", "Forbidden");
        let line = with_sources(&Outer(kube::Error::Api(Box::new(status))));
        assert_eq!(line, "cannot write the Secret: no such user");
    }
}
