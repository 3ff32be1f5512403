/* What every page has: the switch between light and dark, "/" for the search, and copying a command. */
(function () {
  "use strict";
  var root = document.documentElement, button = document.getElementById("theme");
  var system = matchMedia("(prefers-color-scheme: dark)");
  function dark() { return root.dataset.theme ? root.dataset.theme === "dark" : system.matches; }
  function label() { button.textContent = dark() ? "Light mode" : "Dark mode"; }
  button.addEventListener("click", function () {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("clarena-theme", root.dataset.theme); } catch (refused) { /* for this page only */ }
    label();
  });
  system.addEventListener("change", label);
  label();

  document.addEventListener("keydown", function (event) {
    var search = document.getElementById("q");
    if (event.key !== "/" || !search || event.ctrlKey || event.metaKey || event.altKey) return;
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName) && document.activeElement.type !== "checkbox") return;
    event.preventDefault();
    search.focus();
    search.select();
  });

  document.querySelectorAll("[data-copy]").forEach(function (copy) {
    copy.addEventListener("click", function () {
      var text = copy.parentNode.querySelector("pre");
      getSelection().selectAllChildren(text);
      if (!navigator.clipboard) { document.execCommand("copy"); copy.textContent = "Copied"; return; }
      navigator.clipboard.writeText(text.textContent).then(
        function () { copy.textContent = "Copied"; }, function () { copy.textContent = "Selected"; });
    });
  });
})();
