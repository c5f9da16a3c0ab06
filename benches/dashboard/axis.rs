//! The axis of values: where its lines are, and how a value reads in the panel's unit.

/// From zero to a round number.
#[derive(Debug)]
pub struct Axis {
    pub lines: Vec<f64>,
}

impl Axis {
    /// An axis that holds `highest`, in the panel's `unit` of Grafana.
    pub fn up_to(highest: f64, unit: &str, whole: bool) -> Self {
        let highest = if highest > 0.0 { highest } else { 1.0 };
        let step = if unit == "s" && highest > 90.0 { step_of_time(highest) } else { decimal_step(highest) };
        let step = if whole { step.max(1.0).ceil() } else { step };
        let count = (highest / step - 1e-9).ceil() as usize;
        Self { lines: (0..=count.max(1)).map(|number| number as f64 * step).collect() }
    }

    /// The last line.
    pub fn top(&self) -> f64 {
        self.lines.last().copied().unwrap_or(1.0)
    }

    /// A value as it stands beside the axis.
    pub fn label(&self, value: f64, unit: &str) -> String {
        match unit {
            "s" => seconds(value, self.top()),
            "reqps" | "wps" => format!("{}/s", trimmed(value)),
            _ => trimmed(value),
        }
    }
}

/// 1, 2 or 5 times a power of ten, so that there are three to six lines.
fn decimal_step(highest: f64) -> f64 {
    let power = 10f64.powf((highest / 4.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| highest / step <= 4.5).unwrap_or(power)
}

fn step_of_time(highest: f64) -> f64 {
    let minutes = [1, 5, 15, 30, 60, 120, 360, 720, 1440, 7200, 14_400, 28_800, 43_200, 144_000, 288_000];
    let mut steps = minutes.into_iter().map(|minutes| f64::from(minutes) * 60.0);
    steps.find(|step| highest / step <= 4.5).unwrap_or(28_800_000.0)
}

/// In the largest unit of which `top` has one at least.
fn seconds(value: f64, top: f64) -> String {
    let units = [(86_400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs")];
    let (size, name) = units.into_iter().find(|(size, _)| top >= *size * 0.999).unwrap_or((1e-6, "µs"));
    if value == 0.0 { "0".to_owned() } else { format!("{} {name}", trimmed(value / size)) }
}

/// Without zeros at the end.
fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
