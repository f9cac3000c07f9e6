/* Renews the part of a page that says how far something is. The next look comes only after the last answer. */
"use strict";
(function () {
  function look(part) {
    const wait = Number(part.dataset.refreshMs);
    if (!wait) return;
    setTimeout(async function () {
      try {
        const answer = await fetch(window.location.href, { headers: { Accept: "text/html" } });
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const fresh = page.getElementById(part.id);
        if (answer.ok && fresh) {
          if (fresh.innerHTML !== part.innerHTML) part.replaceChildren(...fresh.childNodes);
          if (!fresh.dataset.refreshMs) delete part.dataset.refreshMs;
        }
      } catch {
        /* The server is away: look again later. */
      }
      look(part);
    }, wait);
  }
  document.querySelectorAll("[data-refresh-ms]").forEach(look);
})();
