//! The dashboard as a picture: panels where Grafana has them.

use measuring::svg::{COLOURS, GREY, GRID, INK, Svg};
use serde_json::Value;

use crate::axis::Axis;

/// What a panel shows.
pub struct Drawn {
    /// The panel or row as it is written in the dashboard.
    pub definition: Value,
    /// Names and values of its series, at seconds since the start.
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
}

/// Something that was done during the run.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Seconds since the start.
    pub at: f64,
    pub text: &'static str,
}

const COLUMN: f64 = 1080.0 / 24.0;
const ROW: f64 = 34.0;
const HEAD: f64 = 84.0;
/// Room within a panel around the plot.
const LEFT: f64 = 52.0;
const TOP: f64 = 30.0;
const RIGHT: f64 = 14.0;

/// The picture of a run of so many seconds.
pub fn draw(panels: &[Drawn], marks: &[Mark], seconds: f64) -> String {
    let bottom = panels.iter().map(|panel| number(panel, "y") + number(panel, "h")).fold(0.0, f64::max);
    let mut svg = Svg::new(24.0 * COLUMN, HEAD + bottom * ROW + 8.0);
    svg.sized_text((10.0, 24.0), "start", INK, 17.0, "acr-pull-injector");
    let story: Vec<_> = (1..).zip(marks).map(|(number, mark)| format!("{number}: {}", mark.text)).collect();
    for (number, line) in story.chunks(3).enumerate() {
        svg.text((10.0, 42.0 + 16.0 * number as f64), "start", GREY, &line.join(" · "));
    }
    for panel in panels {
        let (x, y) = (number(panel, "x") * COLUMN, HEAD + number(panel, "y") * ROW);
        let place = [x, y, number(panel, "w") * COLUMN, number(panel, "h") * ROW];
        let title = text(&panel.definition["title"]);
        match panel.definition["type"].as_str() {
            Some("row") => svg.sized_text((x + 10.0, y + 23.0), "start", INK, 14.0, title),
            Some("stat") => stat(&mut svg, panel, title, place),
            _ => series(&mut svg, panel, title, place, marks, seconds),
        }
    }
    svg.finish()
}

/// One value on the colour of its threshold.
fn stat(svg: &mut Svg, panel: &Drawn, title: &str, [x, y, width, height]: [f64; 4]) {
    let defaults = &panel.definition["fieldConfig"]["defaults"];
    let last = panel.lines.last().and_then(|(name, values)| values.last().map(|(_, value)| (name, *value)));
    let (name, value) = last.map_or((String::new(), f64::NAN), |(name, value)| (name.clone(), value));
    let steps = defaults["thresholds"]["steps"].as_array().into_iter().flatten();
    let mut reached = steps.filter(|step| step["value"].as_f64().is_none_or(|from| value >= from));
    let colour = match reached.next_back().and_then(|step| step["color"].as_str()) {
        Some("green") => "#15803d",
        Some("red") => "#b91c1c",
        Some("orange") => "#c2410c",
        _ => "#0b6bcb",
    };
    let mapped = defaults["mappings"][0]["options"][format!("{value:.0}")]["text"].as_str();
    let shown = match panel.definition["options"]["textMode"].as_str() {
        Some("name") => name,
        _ if value.is_nan() => "no data".to_owned(),
        _ => mapped.map_or_else(|| format!("{value:.0}"), str::to_owned),
    };
    svg.rectangle([x + 4.0, y + 4.0, width - 8.0, height - 8.0], colour);
    svg.sized_text((x + 12.0, y + 22.0), "start", "#ffffff", 11.5, title);
    let size = if shown.len() > 5 { 24.0 } else { 36.0 };
    svg.sized_text((x + width / 2.0, y + height / 2.0 + 24.0), "middle", "#ffffff", size, &shown);
}

/// Lines, or areas that stand on each other, over time.
fn series(svg: &mut Svg, panel: &Drawn, title: &str, [x, y, width, height]: [f64; 4], marks: &[Mark], seconds: f64) {
    svg.rectangle([x + 4.0, y + 4.0, width - 8.0, height - 8.0], "#f6f7f8");
    svg.sized_text((x + 12.0, y + 21.0), "start", INK, 12.5, title);
    let defaults = &panel.definition["fieldConfig"]["defaults"];
    let unit = text(&defaults["unit"]);
    let stacked = defaults["custom"]["stacking"]["mode"] == "normal";
    let drawn = if stacked { stack(&panel.lines) } else { panel.lines.clone() };
    let values = || drawn.iter().flat_map(|(_, values)| values.iter().map(|(_, value)| *value));
    let highest = values().filter(|value| value.is_finite()).fold(0.0, f64::max);
    let axis = Axis::up_to(highest, unit, defaults["decimals"] == 0);

    let legend = legend(&panel.lines, width - 24.0);
    let (left, right) = (x + LEFT, x + width - RIGHT);
    let (top, bottom) = (y + TOP + 8.0, y + height - 30.0 - 15.0 * legend.len() as f64);
    let across = |at: f64| left + at / seconds * (right - left);
    let up = |value: f64| bottom - value / axis.top() * (bottom - top);
    for value in &axis.lines {
        svg.line([left, up(*value), right, up(*value)], GRID);
        svg.sized_text((left - 6.0, up(*value) + 4.0), "end", GREY, 10.5, &axis.label(*value, unit));
    }
    for minute in 0..=(seconds / 60.0) as u32 {
        let at = across(f64::from(minute) * 60.0);
        let label = if minute == 0 { "0 min".to_owned() } else { minute.to_string() };
        svg.sized_text((at, bottom + 14.0), "middle", GREY, 10.5, &label);
    }
    for (number, mark) in (1..).zip(marks) {
        svg.dashed([across(mark.at), top, across(mark.at), bottom], "#9ca3af");
        svg.sized_text((across(mark.at), top - 2.0), "middle", GREY, 9.5, &format!("{number}"));
    }
    limit(svg, defaults, axis.top(), [left, right], up);
    for (number, (_, values)) in drawn.iter().enumerate().rev() {
        let colour = COLOURS[number % COLOURS.len()];
        for points in pieces(values) {
            let points: Vec<_> = points.into_iter().map(|(at, value)| (across(at), up(value))).collect();
            if let (true, [(first, _), .., (last, _)]) = (stacked, points.as_slice()) {
                svg.area(&[&points[..], &[(*last, bottom), (*first, bottom)]].concat(), colour, 0.35);
            }
            match points.as_slice() {
                [alone] => svg.dot(*alone, 1.5, colour),
                points => svg.polyline(points, colour, 1.5),
            }
        }
    }
    if values().all(f64::is_nan) {
        svg.text((f64::midpoint(left, right), f64::midpoint(top, bottom)), "middle", GREY, "nothing to show");
    }
    for (number, entries) in legend.iter().enumerate() {
        let line = y + height - 12.0 - 15.0 * (legend.len() - 1 - number) as f64;
        for (offset, index, name) in entries {
            svg.rectangle([x + 12.0 + offset, line - 7.0, 10.0, 4.0], COLOURS[index % COLOURS.len()]);
            svg.sized_text((x + 26.0 + offset, line), "start", GREY, 10.5, name);
        }
    }
}

/// The red line below which the alert comes, where it is within the axis.
fn limit(svg: &mut Svg, defaults: &Value, top: f64, [left, right]: [f64; 2], up: impl Fn(f64) -> f64) {
    let limit = defaults["thresholds"]["steps"][1]["value"].as_f64().filter(|limit| *limit <= top);
    if let (Some(limit), Some("line")) = (limit, defaults["custom"]["thresholdsStyle"]["mode"].as_str()) {
        svg.line([left, up(limit), right, up(limit)], "#b91c1c");
    }
}

/// Each series on top of those before it.
fn stack(lines: &[(String, Vec<(f64, f64)>)]) -> Vec<(String, Vec<(f64, f64)>)> {
    let mut sums: std::collections::BTreeMap<i64, f64> = std::collections::BTreeMap::new();
    let mut stacked = Vec::new();
    for (name, values) in lines {
        let values = values.iter().filter(|(_, value)| value.is_finite()).map(|(at, value)| {
            let sum = sums.entry(at.round() as i64).or_default();
            *sum += value;
            (*at, *sum)
        });
        stacked.push((name.clone(), values.collect()));
    }
    stacked
}

/// The values without those that are no number, cut where some are missing.
fn pieces(values: &[(f64, f64)]) -> Vec<Vec<(f64, f64)>> {
    let step = values.windows(2).map(|pair| pair[1].0 - pair[0].0).fold(f64::MAX, f64::min);
    let mut pieces: Vec<Vec<(f64, f64)>> = Vec::new();
    for point in values.iter().filter(|(_, value)| value.is_finite()) {
        match pieces.last_mut() {
            Some(piece) if piece.last().is_some_and(|last| point.0 - last.0 < step * 1.5) => piece.push(*point),
            _ => pieces.push(vec![*point]),
        }
    }
    pieces
}

/// Names of the series in lines that are no wider than `width`: offset, number and name of each.
fn legend(lines: &[(String, Vec<(f64, f64)>)], width: f64) -> Vec<Vec<(f64, usize, String)>> {
    let mut rows = vec![Vec::new()];
    let mut offset = 0.0;
    for (number, (name, _)) in lines.iter().enumerate() {
        let needed = 26.0 + 5.7 * name.chars().count() as f64;
        if offset > 0.0 && offset + needed > width {
            rows.push(Vec::new());
            offset = 0.0;
        }
        if let Some(row) = rows.last_mut() {
            row.push((offset, number, name.clone()));
        }
        offset += needed;
    }
    rows
}

fn number(panel: &Drawn, field: &str) -> f64 {
    panel.definition["gridPos"][field].as_f64().unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
