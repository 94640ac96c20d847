//! A picture of each workload: bars for the subjects, in groups by threads, with
//! lines for the range between the fastest and the slowest round. A bar many times
//! as high as most is cut and bears its figure, for the others to stay visible.

use crate::harness::Row;
use plotters::prelude::*;
use std::error::Error;
use std::path::Path;

/// Draws the workloads of `rows` into files named after `stem`; returns how many they are.
pub(crate) fn draw(rows: &[Row], stem: &Path) -> Result<usize, Box<dyn Error>> {
    let mut workloads: Vec<&str> = rows.iter().map(|r| r.workload.as_str()).collect();
    workloads.dedup();
    workloads.sort_unstable();
    workloads.dedup();
    for workload in &workloads {
        let words: Vec<&str> = workload
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty())
            .collect();
        let path = format!("{}-{}.svg", stem.display(), words.join("-"));
        let rows: Vec<&Row> = rows.iter().filter(|r| r.workload == *workload).collect();
        one(&rows, workload, Path::new(&path))?;
    }
    Ok(workloads.len())
}

/// How many times the middle figure is the highest bar that is not cut.
const CUT: f64 = 8.0;

fn one(rows: &[&Row], workload: &str, path: &Path) -> Result<(), Box<dyn Error>> {
    let mut threads: Vec<usize> = rows.iter().map(|r| r.threads).collect();
    threads.sort_unstable();
    threads.dedup();
    let mut subjects: Vec<&str> = Vec::new();
    for row in rows {
        if !subjects.contains(&row.subject.as_str()) {
            subjects.push(&row.subject);
        }
    }
    let mut heights: Vec<f64> = rows.iter().map(|r| r.median).collect();
    heights.sort_by(f64::total_cmp);
    let usual = heights.get(heights.len() / 2).copied().unwrap_or(0.0);
    let top = heights.last().copied().unwrap_or(0.0).min(usual * CUT);
    let highest = top * 1.15;
    let group = subjects.len() as f64 + 1.0;
    let root = SVGBackend::new(path, (900, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let unit = rows.first().map_or("", |r| r.unit);
    let mut chart = ChartBuilder::on(&root)
        .caption(format!("{workload} ({unit})"), ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(32)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..group * threads.len() as f64, 0.0..highest.max(1e-9))?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .y_desc(unit)
        .draw()?;
    for (i, subject) in subjects.iter().enumerate() {
        let color = Palette99::pick(i).to_rgba();
        let bars = rows.iter().filter(|r| r.subject == *subject).map(|row| {
            let at = threads.iter().position(|t| *t == row.threads).unwrap_or(0);
            let left = at as f64 * group + i as f64 + 0.5;
            (left, row)
        });
        let mut shapes = Vec::new();
        for (left, row) in bars {
            shapes.push((left, row.median, row.min, row.max.min(highest)));
        }
        chart
            .draw_series(shapes.iter().map(|&(left, median, ..)| {
                Rectangle::new([(left, 0.0), (left + 0.9, median.min(top))], color.filled())
            }))?
            .label(*subject)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], color.filled()));
        let cut = shapes.iter().filter(|shape| shape.1 > top);
        chart.draw_series(cut.map(|&(left, median, ..)| {
            let figure = format!("{median:.0}");
            Text::new(figure, (left, top * 1.05), ("sans-serif", 12))
        }))?;
        let whole = shapes.iter().filter(|shape| shape.1 <= top);
        chart.draw_series(whole.map(|&(left, _, min, max)| {
            PathElement::new(vec![(left + 0.45, min), (left + 0.45, max)], BLACK)
        }))?;
    }
    chart.draw_series(threads.iter().enumerate().map(|(at, threads)| {
        let text = format!("{threads} thread{}", if *threads == 1 { "" } else { "s" });
        Text::new(
            text,
            (at as f64 * group + 0.5, highest * 0.97),
            ("sans-serif", 14),
        )
    }))?;
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .draw()?;
    root.present()?;
    Ok(())
}
