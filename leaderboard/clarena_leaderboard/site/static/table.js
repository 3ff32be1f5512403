/* Sorting, searching and filtering of a table, rows picked for comparison; all of it is kept in the URL's hash. */
(function () {
  "use strict";
  var table = document.querySelector("table.sortable"), search = document.getElementById("q");
  if (!table || !search) return;
  var form = search.form, heads = [], rows = [].slice.call(table.querySelectorAll("tbody tr:not(.group)"));
  var first = rows.map(function (row) { return row; });
  var words = new Map(rows.map(function (row) { return [row, (row.textContent + " " + (row.dataset.words || "")).toLowerCase()]; }));
  var tray = document.querySelector(".tray"), status = form.querySelector(".shown");
  var fields = [].slice.call(form.querySelectorAll("select, input[type=checkbox]"));
  var sorted = null;

  function name(field) { return field.dataset.filter || field.dataset.most || field.dataset.is; }

  function fits(row) {
    var all = search.value.toLowerCase().split(/\s+/).every(function (word) { return words.get(row).includes(word); });
    return all && fields.every(function (field) {
      if (field.dataset.is) return !field.checked || row.dataset[name(field)] === field.value;
      if (field.selectedIndex < 1) return true;
      if (field.dataset.most) return Number(row.dataset[name(field)] || 0) <= Number(field.value);
      return row.dataset[name(field)] === field.value;
    });
  }

  function filter() {
    var shown = 0, hidden = new Set();
    rows.forEach(function (row) {
      var bound = row.parentNode.classList.contains("reference");
      row.hidden = !bound && !fits(row);
      if (row.hidden) hidden.add(row.dataset.row); else shown += 1;
    });
    document.querySelectorAll(".point").forEach(function (point) {
      point.classList.toggle("faded", hidden.has(point.dataset.row));
    });
    status.textContent = hidden.size || shown < rows.length ? shown + " of " + rows.length + " rows" : "";
  }

  function value(row, column) {
    var cell = row.cells[column], raw = cell && cell.dataset.v;
    return raw === undefined ? null : cell.tagName === "TH" ? raw.toLowerCase() : isNaN(raw) ? raw : Number(raw);
  }

  function sort(key, direction) {
    sorted = null;
    heads.forEach(function (head) {
      if (head.dataset.sort !== key) { head.removeAttribute("aria-sort"); return; }
      sorted = { key: key, direction: direction };
      head.setAttribute("aria-sort", direction === "up" ? "ascending" : "descending");
    });
    var column = sorted ? heads.find(function (head) { return head.dataset.sort === key; }).cellIndex : -1;
    [].forEach.call(table.tBodies, function (body) {
      var own = first.filter(function (row) { return row.parentNode === body; });
      if (sorted && !body.classList.contains("reference")) own.sort(function (a, b) {
        var x = value(a, column), y = value(b, column);
        if (x === null || y === null) return (x === null) - (y === null);
        return (x < y ? -1 : x > y ? 1 : 0) * (direction === "up" ? 1 : -1);
      });
      own.forEach(function (row) { body.appendChild(row); });
    });
  }

  function picked() { return [].slice.call(table.querySelectorAll(".pick input:checked")); }

  function pick() {
    if (!tray) return;
    var chosen = picked(), link = tray.querySelector("a");
    table.querySelectorAll(".pick input").forEach(function (box) { box.disabled = chosen.length >= 4 && !box.checked; });
    tray.hidden = !chosen.length;
    tray.querySelector("span").textContent = chosen.length + " of at most 4 rows" + (chosen.length < 2 ? ": pick one more" : "");
    link.setAttribute("aria-disabled", chosen.length < 2);
    link.href = table.dataset.compare + "#rows=" + chosen.map(function (box) { return box.value; }).join(",");
  }

  function remember() {
    var state = new URLSearchParams();
    if (search.value) state.set("q", search.value);
    fields.forEach(function (field) {
      if (field.type === "checkbox" ? field.checked : field.selectedIndex > 0) state.set(name(field), field.value);
    });
    if (sorted) state.set("sort", sorted.key + "." + sorted.direction);
    if (picked().length) state.set("pick", picked().map(function (box) { return box.value; }).join(","));
    history.replaceState(null, "", state.size ? "#" + state : location.pathname + location.search);
  }

  function restore() {
    if (location.hash && !location.hash.includes("=")) return; /* a place on the page */
    var state = new URLSearchParams(location.hash.slice(1)), order = (state.get("sort") || "").split(".");
    search.value = state.get("q") || "";
    fields.forEach(function (field) {
      if (field.type === "checkbox") { field.checked = state.get(name(field)) === field.value; return; }
      field.selectedIndex = 0;
      [].forEach.call(field.options, function (option, i) { if (i && state.get(name(field)) === option.value) field.selectedIndex = i; });
    });
    var wanted = (state.get("pick") || "").split(",").slice(0, 4);
    table.querySelectorAll(".pick input").forEach(function (box) { box.checked = wanted.includes(box.value); });
    sort(order[0], order[1] === "up" ? "up" : "down");
    filter();
    pick();
  }

  heads = [].slice.call(table.querySelectorAll("th[data-sort]"));
  heads.forEach(function (head) {
    var title = head.querySelector(".title"), button = document.createElement("button");
    button.type = "button";
    button.textContent = title.textContent;
    title.replaceChildren(button);
    button.addEventListener("click", function () {
      var text = head.dataset.sort === "label" || head.dataset.sort === "benchmark" || head.dataset.sort === "tier";
      var now = sorted && sorted.key === head.dataset.sort ? sorted.direction : null;
      var start = text ? "up" : "down", other = text ? "down" : "up";
      if (now === other) sort(null); else sort(head.dataset.sort, now === start ? other : start);
      remember();
    });
  });
  form.addEventListener("submit", function (event) { event.preventDefault(); });
  form.addEventListener("input", function () { filter(); remember(); });
  table.addEventListener("change", function (event) { if (event.target.closest(".pick")) { pick(); remember(); } });
  form.querySelectorAll("[data-reset]").forEach(function (button) {
    button.addEventListener("click", function () { form.reset(); sort(null); filter(); remember(); });
  });
  if (tray) tray.querySelector("button").addEventListener("click", function () {
    picked().forEach(function (box) { box.checked = false; });
    pick();
    remember();
  });
  document.querySelectorAll("[data-axis]").forEach(function (button) {
    button.addEventListener("click", function () {
      var linear = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", linear);
      button.closest("figure").querySelectorAll(".axis").forEach(function (axis, i) { axis.hidden = linear === (i === 0); });
    });
  });
  document.addEventListener("click", function (event) {
    var point = event.target.closest(".point"), row = point && rows.find(function (row) { return row.dataset.row === point.dataset.row; });
    if (row) location.href = row.querySelector("th a").href;
  });
  addEventListener("hashchange", restore);
  restore();
})();
