"""Where ``tmt`` begins, and ``python -m transformer_mt``; torchrun needs a module to run."""


def main() -> None:
    """Run the command line. An interrupt while its modules are loaded, in the first moment, is told as later ones."""
    try:
        from transformer_mt.cli.main import main as run
    except KeyboardInterrupt:
        raise SystemExit("tmt: interrupted") from None
    run()


if __name__ == "__main__":
    main()
