from results.analysis.paired import paired


def paired_frechet(x, y, r):
    return paired(x.mean(1), y.mean(1))


paired_kernel = paired_frechet
