/* Before anything is drawn: that there is a script, and the reader's choice of light or dark. */
(function () {
  "use strict";
  var root = document.documentElement;
  root.classList.add("js");
  try {
    var kept = localStorage.getItem("clarena-theme");
    if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  } catch (refused) { /* no storage: the system's choice stands */ }
})();
