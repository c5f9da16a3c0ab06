//! The dashboard as Grafana reads it: panels and their queries, with the variables put in.

use std::time::Duration;

use serde_json::Value;

use crate::{
    prometheus::{Prometheus, Series},
    world::Error,
};

/// A panel that asks something, in the order in which it stands on the dashboard.
pub struct Panel {
    pub targets: Vec<Target>,
    /// The panel as it is written.
    pub definition: Value,
}

/// One query of a panel.
pub struct Target {
    pub expression: String,
    /// How a series is named; `{{label}}` stands for the value of a label.
    pub legend: String,
}

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/acr-pull-injector/files/dashboard.json");

/// The dashboard of the chart.
pub fn definition() -> Result<Value, Error> {
    Ok(serde_json::from_str(&std::fs::read_to_string(FILE)?)?)
}

/// All panels that ask something, for the only namespace that runs the program.
///
/// `interval` is the time between two scrapes, `step` that between two points of the drawing; `$__rate_interval` follows from
/// both (<https://grafana.com/docs/grafana/latest/datasources/prometheus/template-variables/>).
pub async fn panels(
    dashboard: &Value,
    prometheus: &Prometheus,
    interval: Duration,
    step: Duration,
) -> Result<Vec<Panel>, Error> {
    let namespace = namespace(dashboard, prometheus).await?;
    let rate_interval = format!("{}s", (4 * interval).max(step + interval).as_secs());
    let put_in =
        |expression: &str| expression.replace("$namespace", &namespace).replace("$__rate_interval", &rate_interval);
    let mut panels = Vec::new();
    for panel in dashboard["panels"].as_array().ok_or("no panels")?.iter().filter(|panel| panel["type"] != "row") {
        let mut targets = Vec::new();
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = put_in(target["expr"].as_str().ok_or("a target without an expression")?);
            if expression.contains('$') {
                return Err(format!("{expression}: a variable that is not known here").into());
            }
            targets.push(Target { expression, legend: text(&target["legendFormat"]) });
        }
        panels.push(Panel { targets, definition: panel.clone() });
    }
    Ok(panels)
}

impl Target {
    /// What Grafana writes under the panel for a series; an error when the series has not all labels that the legend names.
    pub fn name(&self, series: &Series) -> Result<String, Error> {
        let mut name = String::new();
        let mut rest = self.legend.as_str();
        while let Some((before, after)) = rest.split_once("{{") {
            let (label, after) = after.split_once("}}").ok_or("a legend with an open brace")?;
            let value = series.labels.get(label).ok_or_else(|| format!("no label {label} in {:?}", series.labels))?;
            name.push_str(before);
            name.push_str(value);
            rest = after;
        }
        name.push_str(rest);
        Ok(name)
    }
}

/// The value of the variable `namespace`, by the variable's own query.
async fn namespace(dashboard: &Value, prometheus: &Prometheus) -> Result<String, Error> {
    let mut variables = dashboard["templating"]["list"].as_array().into_iter().flatten();
    let query = variables.find_map(|variable| variable["query"]["query"].as_str()).ok_or("no variable")?;
    let arguments = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
    let (metric, label) = arguments.and_then(|arguments| arguments.rsplit_once(", ")).ok_or("another kind of query")?;
    let values = prometheus.label_values(metric, label).await?;
    match values.as_slice() {
        [namespace] => Ok(namespace.clone()),
        others => Err(format!("{query} gives {others:?}").into()),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
