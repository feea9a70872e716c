//! Curves of one or several runs side by side, as one SVG.
//!
//! ```text
//! cargo run --release -p curves -- OUT.svg RUN_FOLDER…
//! ```
//!
//! Reads each run's `metrics.jsonl` and draws accuracy, mean score, lengths of right and of wrong answers, and the share
//! of clipped tokens, step by step. A run is labelled by its folder's name.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use plotters::coord::Shift;
use plotters::prelude::*;
use serde_json::Value;

/// Colours that people with colour-blindness tell apart (Okabe and Ito).
const COLOURS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
];
const INK: RGBColor = RGBColor(60, 60, 60);
const SIZE: (u32, u32) = (940, 620);

fn main() -> Result<(), Box<dyn Error>> {
    let mut paths = std::env::args_os().skip(1).map(PathBuf::from);
    let usage = "usage: curves OUT.svg RUN_FOLDER…";
    let out = paths.next().ok_or(usage)?;
    let runs = paths.map(|folder| Run::read(&folder)).collect::<Result<Vec<_>, _>>()?;
    if runs.is_empty() {
        return Err(usage.into());
    }
    // A white sheet of its own: the picture reads the same on a light and on a dark page.
    let sheet = SVGBackend::new(&out, SIZE).into_drawing_area();
    sheet.fill(&WHITE)?;
    let panels = sheet.margin(8, 8, 8, 8).split_evenly((2, 2));
    draw(&panels[0], &runs, "accuracy of the sampled answers", &[Curve::solid("reward/acc/mean")])?;
    draw(&panels[1], &runs, "mean score", &[Curve::solid("critic/score/mean")])?;
    let lengths = [Curve::solid("response_length/correct/mean"), Curve::pale("response_length/wrong/mean")];
    draw(&panels[2], &runs, "length in tokens: right answers (pale: wrong ones)", &lengths)?;
    draw(&panels[3], &runs, "share of tokens clipped", &[Curve::solid("actor/pg_clipfrac")])?;
    sheet.present()?;
    Ok(())
}

/// A run's name and its steps, each an object of metrics.
struct Run {
    name: String,
    steps: Vec<Value>,
}

impl Run {
    fn read(folder: &Path) -> Result<Self, Box<dyn Error>> {
        let file = folder.join("metrics.jsonl");
        let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        let lines = text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>();
        let lines = lines.map_err(|e| format!("{}: {e}", file.display()))?;
        // Step 0 is a validation alone.
        let steps: Vec<Value> = lines.into_iter().filter(|line| line["step"].as_u64() > Some(0)).collect();
        if steps.is_empty() {
            return Err(format!("{}: no step", file.display()).into());
        }
        let name = folder.file_name().map_or("run".into(), |name| name.to_string_lossy().into_owned());
        Ok(Self { name, steps })
    }

    /// (step, value) wherever the metric is known: the length of wrong answers is not where all are right.
    fn points(&self, metric: &str) -> Vec<(f64, f64)> {
        self.steps.iter().filter_map(|step| Some((step["step"].as_f64()?, step[metric].as_f64()?))).collect()
    }
}

/// A metric and how its line is drawn.
struct Curve {
    metric: &'static str,
    pale: bool,
}

impl Curve {
    fn solid(metric: &'static str) -> Self {
        Self { metric, pale: false }
    }

    fn pale(metric: &'static str) -> Self {
        Self { metric, pale: true }
    }
}

fn draw(
    panel: &DrawingArea<SVGBackend<'_>, Shift>,
    runs: &[Run],
    title: &str,
    curves: &[Curve],
) -> Result<(), Box<dyn Error>> {
    let values: Vec<(f64, f64)> =
        runs.iter().flat_map(|run| curves.iter().flat_map(|curve| run.points(curve.metric))).collect();
    let last = values.iter().map(|point| point.0).fold(1.0, f64::max);
    let highest = values.iter().map(|point| point.1).fold(0.0, f64::max);
    // An axis needs a length, also where nothing but zeros was measured.
    let highest = if highest > 0.0 { highest } else { 1.0 };
    let lowest = values.iter().map(|point| point.1).fold(0.0, f64::min);
    let text = ("sans-serif", 14).into_font().color(&INK);
    let mut chart = ChartBuilder::on(panel)
        .margin(10)
        .caption(title, ("sans-serif", 16).into_font().color(&INK))
        .x_label_area_size(34)
        .y_label_area_size(44)
        .build_cartesian_2d(0.0..last, lowest..highest * 1.05)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(INK.mix(0.12))
        .axis_style(INK.mix(0.5))
        .label_style(text.clone())
        .x_desc("step")
        .x_labels(6)
        .x_label_formatter(&|step| format!("{step:.0}"))
        .y_labels(6)
        .draw()?;
    for (run, colour) in runs.iter().zip(COLOURS.iter().cycle()) {
        for curve in curves {
            let points = run.points(curve.metric);
            let strength = if curve.pale { 0.4 } else { 1.0 };
            let line = chart.draw_series(LineSeries::new(points, colour.mix(strength).stroke_width(2)))?;
            if !curve.pale {
                line.label(&run.name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
            }
        }
    }
    let corner = if curves.len() == 1 && falls(runs, curves[0].metric) {
        SeriesLabelPosition::UpperRight
    } else {
        SeriesLabelPosition::LowerRight
    };
    chart.configure_series_labels().position(corner).label_font(text).background_style(WHITE.mix(0.8)).draw()?;
    Ok(())
}

/// Whether a metric is lower in the second half of the first run than in the first, so that there is room above it.
fn falls(runs: &[Run], metric: &str) -> bool {
    let points = runs[0].points(metric);
    let (first, second) = points.split_at(points.len() / 2);
    let mean = |points: &[(f64, f64)]| points.iter().map(|point| point.1).sum::<f64>() / points.len().max(1) as f64;
    mean(second) < mean(first)
}
