"use strict";

// -- numbers, as the server writes them

const grouped = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, "\u202f");

const share = (part, whole) => {
  if (!whole) return "–";
  const percent = (100 * part) / whole;
  return percent >= 10 || percent === 0 ? `${percent.toFixed(0)} %` : `${Number(percent.toPrecision(2))} %`;
};

const lasting = (seconds) => {
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  if (seconds < 3600) return `${Math.ceil(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${String(Math.ceil((seconds % 3600) / 60)).padStart(2, "0")} min`;
};

// -- pages of Airflow open in Airflow, not in the frame

function openInAirflow(address) {
  if (window.parent === window) {
    window.location.assign(address);
    return;
  }
  // The frame may not navigate the window above it; a link of that window's own document may.
  const above = window.parent.document;
  const link = above.createElement("a");
  link.href = address;
  above.body.appendChild(link);
  link.click();
  link.remove();
}

// Nor may the frame open a window of its own.
function openOutside(address) {
  const above = window.parent.document;
  const link = above.createElement("a");
  link.href = address;
  link.target = "_blank";
  link.rel = "noopener noreferrer";
  above.body.appendChild(link);
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
      plugins: { legend: { position: "bottom", labels: { boxWidth: 12 } } },
      scales: {
        x: { stacked: true, grid: { display: false }, ticks: { maxRotation: 0, autoSkipPadding: 16 } },
        y: { stacked: true, beginAtZero: true, ticks: { precision: 0 } },
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

// -- a run that is still going

function follow(section) {
  const field = (name) => document.querySelector(`[data-field="${name}"]`);
  const seen = []; // [seconds, links done], of the last half minute

  const show = (told) => {
    const now = performance.now() / 1000;
    seen.push([now, told.done]);
    while (seen.length > 2 && now - seen[0][0] > 30) seen.shift();
    for (const name of ["done", "planned", "chunks", "chunks_done"]) field(name).textContent = grouped(told[name]);
    if (field("credits")) field("credits").textContent = grouped(told.credits);
    field("bar").max = told.planned || 1;
    field("bar").value = told.done;
    const [since, before] = seen[0];
    const rate = now > since ? (told.done - before) / (now - since) : 0;
    field("rate").textContent = rate > 0 ? rate.toFixed(1) : "–";
    field("left").textContent = rate > 0 ? lasting((told.planned - told.done) / rate) : "–";
    for (const row of document.querySelectorAll("tr[data-outcome]")) {
      const count = told.by_outcome[row.dataset.outcome] ?? 0;
      row.querySelector("[data-cell=count]").textContent = grouped(count);
      row.querySelector("[data-cell=share]").textContent = share(count, told.planned);
      row.querySelector("rect").setAttribute("width", told.planned ? (100 * count) / told.planned : 0);
    }
  };

  const ask = async () => {
    const asked = performance.now();
    let wait = 5000;
    try {
      const answer = await fetch(section.dataset.poll, { headers: { accept: "application/json" } });
      if (answer.status === 401 || answer.status === 403) return;
      if (answer.ok) {
        const told = await answer.json();
        show(told);
        if (told.finished) field("announce").textContent = `The run has finished: ${told.status}.`;
        if (told.shown !== section.dataset.shown) {
          // A search was sent as a form, which a browser would ask to send once more.
          if (!document.querySelector("[data-look]")) return window.location.reload();
          if (told.finished) return;
        }
        // A database that takes long is asked less often.
        wait = Math.max(told.poll_ms, 10 * (performance.now() - asked));
      }
    } catch {
      // the server is away for a moment
    }
    window.setTimeout(ask, wait);
  };

  ask();
}

// -- a run on the links of this one

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
  const problem = form.querySelector("[role=alert]");
  const paused = form.querySelector("[data-paused]");

  const configuration = () => {
    const given = new FormData(form);
    const conf = { job: given.get("job"), run: given.get("run"), mode: given.get("mode") };
    if (form.querySelector("[name=outcomes]")) conf.outcomes = given.getAll("outcomes");
    for (const name of RELINK_FILTERS) {
      if (given.get(name)) conf[name] = given.get(name);
    }
    if (given.get("max_links")) conf.max_links = Number(given.get("max_links"));
    if (given.get("reason").trim()) conf.reason = given.get("reason").trim();
    return conf;
  };
  const showConfiguration = () => {
    form.querySelector("[data-conf]").textContent = JSON.stringify(configuration(), null, 2);
  };
  const send = (method, address, body) =>
    fetch(address, { method, headers: { "content-type": "application/json", accept: "application/json" }, body: JSON.stringify(body) });
  const refuse = (text) => {
    problem.textContent = text;
    problem.hidden = false;
  };
  const why = async (answer) => {
    if (answer.status === 403) return "You may not do this: ask whoever manages Airflow's permissions.";
    if (answer.status === 404) return "Airflow does not know this Dag: is its file in the Dags folder?";
    const told = await answer.json().catch(() => ({}));
    return typeof told.detail === "string" ? told.detail : `Airflow answered ${answer.status}.`;
  };

  form.addEventListener("input", showConfiguration);
  showConfiguration();
  fetch(api, { headers: { accept: "application/json" } })
    .then((answer) => (answer.ok ? answer.json() : {}))
    .then((dagOf) => {
      paused.hidden = !dagOf.is_paused;
    })
    .catch(() => {});

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    problem.hidden = true;
    const button = form.querySelector("button");
    const conf = configuration();
    if (conf.outcomes && conf.outcomes.length === 0) return refuse("Choose at least one outcome.");
    button.disabled = true;
    try {
      if (!paused.hidden && paused.querySelector("input").checked) {
        const switched = await send("PATCH", `${api}?update_mask=is_paused`, { is_paused: false });
        if (!switched.ok) return refuse(await why(switched));
      }
      const answer = await send("POST", `${api}/dagRuns`, { logical_date: null, conf });
      if (!answer.ok) return refuse(await why(answer));
      const run = await answer.json();
      openInAirflow(`${form.dataset.airflowBase}dags/${dag}/runs/${encodeURIComponent(run.dag_run_id)}`);
    } catch {
      refuse("Airflow does not answer. Whether the run was started is shown on the Dag's page.");
    } finally {
      button.disabled = false;
    }
  });
}

document.querySelectorAll("canvas[data-chart]").forEach(drawLinks);
// What a search has found is what its reader wants to see.
document.querySelector("[data-look]")?.scrollIntoView();
document.querySelectorAll("[data-poll]").forEach(follow);
document.querySelectorAll("[data-look-again]").forEach((element) => {
  window.setTimeout(() => window.location.reload(), Number(element.dataset.lookAgain));
});
document.querySelectorAll("form[data-trigger]").forEach(startRuns);
