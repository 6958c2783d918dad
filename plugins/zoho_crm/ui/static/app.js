"use strict";

// -- number formats, the same as on the server

const grouped = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, "\u202f");

const share = (part, whole) => {
  if (!whole) return "–";
  const percent = (100 * part) / whole;
  return percent >= 10 || percent === 0 ? `${percent.toFixed(0)} %` : `${Number(percent.toPrecision(2))} %`;
};

const formatDuration = (seconds) => {
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  if (seconds < 3600) return `${Math.ceil(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${String(Math.ceil((seconds % 3600) / 60)).padStart(2, "0")} min`;
};

// -- links to Airflow open outside of the frame

function openInAirflow(url) {
  if (window.parent === window) {
    window.location.assign(url);
    return;
  }
  // The frame may not navigate its parent window; a link in the parent's document may.
  const outer = window.parent.document;
  const link = outer.createElement("a");
  link.href = url;
  outer.body.appendChild(link);
  link.click();
  link.remove();
}

// The frame may not open a window either.
function openOutside(url) {
  const outer = window.parent.document;
  const link = outer.createElement("a");
  link.href = url;
  link.target = "_blank";
  link.rel = "noopener noreferrer";
  outer.body.appendChild(link);
  link.click();
  link.remove();
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-airflow], a[data-outside]");
  if (!link || event.button !== 0) return;
  const outside = "outside" in link.dataset;
  if (!outside && (event.ctrlKey || event.metaKey || event.shiftKey)) return;
  if (outside && window.parent === window) return;
  event.preventDefault();
  (outside ? openOutside : openInAirflow)(link.getAttribute("href"));
});

// -- charts

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function drawChart(canvas, { labels, datasets, paintSet }) {
  const chart = new Chart(canvas, {
    type: "bar",
    data: { labels, datasets },
    options: {
      animation: false,
      maintainAspectRatio: false,
      layout: { padding: { right: 8 } },
      interaction: { mode: "index", intersect: false },
      plugins: {
        legend: { position: "bottom", labels: { boxWidth: 12 } },
        tooltip: { callbacks: { label: ({ dataset, raw }) => `${dataset.label}: ${grouped(raw)}` } },
      },
      scales: {
        x: { stacked: true, grid: { display: false }, ticks: { maxRotation: 0, autoSkipPadding: 16 } },
        y: { stacked: true, beginAtZero: true, ticks: { precision: 0, callback: grouped } },
      },
    },
  });
  const paint = () => {
    chart.data.datasets.forEach(paintSet);
    chart.options.color = color("--text");
    for (const axis of Object.values(chart.options.scales)) {
      axis.ticks.color = color("--muted");
      axis.grid.color = color("--line");
    }
    chart.update();
  };
  paint();
  document.addEventListener("themechange", paint);
}

function drawLinks(canvas) {
  const { days, series } = JSON.parse(canvas.dataset.chart);
  drawChart(canvas, {
    labels: days,
    datasets: series.map((each) => ({ label: each.outcome.replaceAll("_", " "), data: each.counts })),
    paintSet: (dataset, place) => {
      dataset.backgroundColor = color(`--${series[place].outcome.replaceAll("_", "-")}`);
    },
  });
}

// -- progress of an unfinished run

function follow(section) {
  const field = (name) => document.querySelector(`[data-field="${name}"]`);
  const samples = []; // [seconds, links done] of the last 30 seconds

  const showKinds = ({ planned, done, by_outcome: counts }) => {
    const texts = [];
    let before = 0;
    for (const segment of field("bar").querySelectorAll("rect")) {
      let count = segment.dataset.outcomes.split(" ").reduce((sum, name) => sum + (counts[name] ?? 0), 0);
      if (segment.dataset.kind === "remaining") count += Math.max(0, planned - done);
      segment.setAttribute("x", planned ? (100 * before) / planned : 0);
      segment.setAttribute("width", planned ? (100 * count) / planned : 0);
      before += count;
      if (count) texts.push(`${grouped(count)} ${segment.dataset.kind}`);
    }
    field("kinds").textContent = texts.join(", ") || "no links";
    field("bar").setAttribute("aria-label", field("kinds").textContent);
  };

  const show = (progress) => {
    const now = performance.now() / 1000;
    samples.push([now, progress.done]);
    while (samples.length > 2 && now - samples[0][0] > 30) samples.shift();
    for (const name of ["done", "planned", "chunks", "chunks_done"]) field(name).textContent = grouped(progress[name]);
    if (field("credits")) field("credits").textContent = grouped(progress.credits);
    showKinds(progress);
    const [since, before] = samples[0];
    const rate = now > since ? (progress.done - before) / (now - since) : 0;
    field("rate").textContent = rate > 0 ? rate.toFixed(1) : "–";
    field("left").textContent = rate > 0 ? formatDuration((progress.planned - progress.done) / rate) : "–";
    for (const row of document.querySelectorAll("tr[data-outcome]")) {
      const count = progress.by_outcome[row.dataset.outcome] ?? 0;
      row.querySelector("[data-cell=count]").textContent = grouped(count);
      row.querySelector("[data-cell=share]").textContent = share(count, progress.planned);
      row.querySelector("rect").setAttribute("width", progress.planned ? (100 * count) / progress.planned : 0);
    }
  };

  const poll = async () => {
    const sentAt = performance.now();
    let wait = 5000;
    try {
      const response = await fetch(section.dataset.poll, { headers: { accept: "application/json" } });
      if (response.status === 401 || response.status === 403) return;
      if (response.ok) {
        const progress = await response.json();
        show(progress);
        if (progress.finished) field("announce").textContent = `The run has finished: ${progress.status}.`;
        if (progress.shown !== section.dataset.shown) {
          // After a search, a reload would make the browser ask whether to send the form again.
          if (!document.querySelector("[data-scroll-here]")) return window.location.reload();
          if (progress.finished) return;
        }
        // Poll a slow database less often.
        wait = Math.max(progress.poll_ms, 10 * (performance.now() - sentAt));
      }
    } catch {
      // the server is unavailable for a moment
    }
    window.setTimeout(poll, wait);
  };

  poll();
}

// -- the form that starts a retry or a relink

const RELINK_FILTERS = [
  "external_id_prefix",
  "related_external_id_prefix",
  "finished_from",
  "finished_to",
  "zoho_code",
  "links",
];

function startRuns(form) {
  const dag = encodeURIComponent(form.dataset.trigger);
  const api = `${form.dataset.airflowBase}api/v2/dags/${dag}`;
  const notice = form.querySelector("[role=alert]");
  const paused = form.querySelector("[data-paused]");

  const configuration = () => {
    const fields = new FormData(form);
    const conf = { job: fields.get("job"), run: fields.get("run"), mode: fields.get("mode") };
    if (form.querySelector("[name=outcomes]")) conf.outcomes = fields.getAll("outcomes");
    if (fields.get("include_presumed")) conf.include_presumed = true;
    for (const name of RELINK_FILTERS) {
      if (fields.get(name)) conf[name] = fields.get(name);
    }
    if (fields.get("max_links")) conf.max_links = Number(fields.get("max_links"));
    if (fields.get("reason").trim()) conf.reason = fields.get("reason").trim();
    return conf;
  };
  const showConfiguration = () => {
    form.querySelector("[data-conf]").textContent = JSON.stringify(configuration(), null, 2);
  };
  const send = (method, url, body) =>
    fetch(url, { method, headers: { "content-type": "application/json", accept: "application/json" }, body: JSON.stringify(body) });
  const refuse = (text) => {
    notice.textContent = text;
    notice.hidden = false;
  };
  const reasonOf = async (response) => {
    if (response.status === 403) return "You may not do this. Ask an administrator of Airflow for access.";
    if (response.status === 404) return "Airflow has no such Dag. Check that its file is in the Dags folder.";
    const problem = await response.json().catch(() => ({}));
    return typeof problem.detail === "string" ? problem.detail : `Airflow responded with ${response.status}.`;
  };

  form.addEventListener("input", showConfiguration);
  showConfiguration();
  fetch(api, { headers: { accept: "application/json" } })
    .then((response) => (response.ok ? response.json() : {}))
    .then((found) => {
      paused.hidden = !found.is_paused;
    })
    .catch(() => {});

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    notice.hidden = true;
    const button = form.querySelector("button");
    const conf = configuration();
    if (conf.outcomes && conf.outcomes.length === 0) return refuse("Choose at least one outcome.");
    button.disabled = true;
    try {
      if (!paused.hidden && paused.querySelector("input").checked) {
        const unpaused = await send("PATCH", `${api}?update_mask=is_paused`, { is_paused: false });
        if (!unpaused.ok) return refuse(await reasonOf(unpaused));
      }
      const response = await send("POST", `${api}/dagRuns`, { logical_date: null, conf });
      if (!response.ok) return refuse(await reasonOf(response));
      const run = await response.json();
      openInAirflow(`${form.dataset.airflowBase}dags/${dag}/runs/${encodeURIComponent(run.dag_run_id)}`);
    } catch {
      refuse("Airflow does not respond. Check on the page of the Dag whether the run has started.");
    } finally {
      button.disabled = false;
    }
  });
}

document.querySelectorAll("canvas[data-chart]").forEach(drawLinks);
// After a search, show its result.
document.querySelector("[data-scroll-here]")?.scrollIntoView();
document.querySelectorAll("[data-poll]").forEach(follow);
document.querySelectorAll("[data-reload-after]").forEach((element) => {
  window.setTimeout(() => window.location.reload(), Number(element.dataset.reloadAfter));
});
document.querySelectorAll("form[data-trigger]").forEach(startRuns);
