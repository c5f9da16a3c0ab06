//! `$(NAME)` in commands, arguments and environment values.

/// Replaces `$(NAME)` by what `value` knows; an unknown name stays as it is, and `$$` is a plain `$`.
/// Source: `third_party/forked/golang/expansion` of Kubernetes.
pub(super) fn expand(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        expanded.push_str(rest.get(..dollar).unwrap_or_default());
        let after = rest.get(dollar + 1..).unwrap_or_default();
        let reference = after.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        rest = match (after.strip_prefix('$'), reference) {
            (Some(after), _) => {
                expanded.push('$');
                after
            }
            (None, Some((name, after))) => {
                expanded.push_str(&value(name).unwrap_or_else(|| format!("$({name})")));
                after
            }
            (None, None) => {
                expanded.push('$');
                after
            }
        };
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_as_kubernetes_does() {
        let value = |name: &str| (name == "NS").then(|| "team-a".to_owned());
        for (text, expected) in [
            ("--namespace=$(NS)", "--namespace=team-a"),
            ("$(NS)$(NS)", "team-ateam-a"),
            ("$(OTHER)", "$(OTHER)"),
            ("$$(NS)", "$(NS)"),
            ("$NS $ $(NS", "$NS $ $(NS"),
        ] {
            assert_eq!(expand(text, value), expected, "{text}");
        }
    }
}
