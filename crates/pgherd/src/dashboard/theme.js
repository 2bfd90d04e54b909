// The chosen colours, set before anything is drawn; without a choice the browser's preference holds.
(() => {
  const root = document.documentElement;
  try {
    const chosen = localStorage.getItem("pgherd.theme");
    if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
  } catch {
    // A browser that keeps nothing shows what it prefers.
  }
})();
